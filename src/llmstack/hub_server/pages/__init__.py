"""The pages for people: a catalogue at `/`, a page for each repo, and errors in the same look.

site         which page an address has, and what all pages share: their look, headers, and language
catalogue    the list of repos
repo         a repo's page
folders      what lies in one folder of a repo
readme       a README as harmless HTML
snippets     what to copy
links        addresses of the hub's own
language     the texts, by what the browser asks for
"""

from llmstack.hub_server.pages.page_routes import Site, error_page, wants_page

__all__ = ["Site", "error_page", "wants_page"]
