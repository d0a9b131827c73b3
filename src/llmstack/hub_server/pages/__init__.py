"""The pages for browsers: the list of repos at `/`, a page per repo, and errors.

page_routes  the handlers, and what all pages share: layout, headers, language
repo_list    the list of repos
repo_filters the filters of that list
repo_page    a repo's page: its files, and its README by readme_html and snippets
model_numbers  the numbers and quantizations of a model
file_page    a file's page, with its preview by previews
language     the texts of each language
"""

from llmstack.hub_server.pages.page_routes import error_page, get_asset, get_file_page, get_repo_list, get_repo_page

__all__ = ["error_page", "get_asset", "get_file_page", "get_repo_list", "get_repo_page"]
