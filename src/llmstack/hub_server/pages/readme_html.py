"""A README as sanitized HTML, with its links and images rewritten to this hub."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping
from html import escape
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt

from llmstack.hf.hub_urls import PUBLIC_HOSTS
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.pages.markdown_math import CLASS, add_math
from llmstack.hub_server.paths import file_url, folder_url, parse_repo_path
from llmstack.hub_server.repos import Files, Revision

# A longer README is shown as plain text: parsing time can grow quadratically.
MAX_TEXT = 128 * 1024
MAX_TAGS = 5000
_TAG = re.compile(r"<[a-zA-Z]")

ID_PREFIX = "readme-"
_BARE_URL = re.compile(r"""https?://[^\s<>"'`()\[\]{}]*[^\s<>"'`()\[\]{}.,;:!?]""")
_NOT_IN_SLUG = re.compile(r"[^\w\- ]")
_HEADINGS = {f"h{level}": f"h{min(level + 1, 6)}" for level in range(1, 7)}
_VOID = frozenset({"br", "hr", "img", "wbr"})

_BLOCKS = {"blockquote", "center", "dd", "details", "div", "dl", "dt", "hr", "li", "ol", "p", "pre", "summary", "ul"}
_INLINE = {"a", "abbr", "b", "br", "code", "del", "em", "i", "img", "ins", "kbd", "mark", "q", "s", "samp", "small"}
_MORE_INLINE = {"span", "strong", "sub", "sup", "tt", "u", "var", "wbr"}
_TABLES = {"caption", "table", "tbody", "td", "tfoot", "th", "thead", "tr"}
TAGS = frozenset(_BLOCKS | _INLINE | _MORE_INLINE | _TABLES | set(_HEADINGS))
_ALIGNED = {"div", "p", "table", "td", "th", "tr", *_HEADINGS}
ATTRIBUTES: Mapping[str, set[str]] = {
    **{tag: {"align", "id"} for tag in _ALIGNED},
    "a": {"href", "id", "name", "title"},
    "img": {"align", "alt", "height", "src", "title", "width"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
    "ol": {"start"},
    "details": {"open"},
}
# Elements that scroll horizontally must be reachable by keyboard.
_FOCUSED: Mapping[str, set[str]] = {"tabindex": {"0"}}
SCHEMES = frozenset({"http", "https", "mailto"})
# A path on this hub, not `//host` or `/\\host`.
_OWN_PATH = re.compile(r"/[A-Za-z0-9_]")


def _own_images(_tag: str, attribute: str, value: str) -> str | None:
    return None if attribute == "src" and not _OWN_PATH.match(value) else value


def _cleaner(*, last: bool) -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        clean_content_tags={"script", "style"},
        tag_attribute_values={"div": _FOCUSED, "pre": _FOCUSED},
        allowed_classes={"a": {"image"}, "code": {CLASS}, "div": {"scrolled"}, "pre": {CLASS}, "span": {"image"}},
        link_rel="nofollow noopener noreferrer",
        attribute_filter=_own_images if last else None,
    )


# The first makes the HTML well-formed for the rewriter; the last one sanitizes the result.
_FIRST, _LAST = _cleaner(last=False), _cleaner(last=True)
_MARKDOWN = add_math(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]))


IsCarried = Callable[[RepoType, str], bool]


def render(
    text: str,
    revision: Revision,
    files: Files,
    prefix: str = "",
    is_carried: IsCarried = lambda _type, _id: False,
) -> str:
    """Return Markdown as HTML that is safe in a page.

    `prefix` is the path of the hub's URL. Links to repos that are carried lead to this hub.
    """
    if len(text) > MAX_TEXT or len(_TAG.findall(text)) > MAX_TAGS:
        return f"<pre>{escape(text)}</pre>"
    rewriter = _Rewriter(_Targets(revision, files, prefix, is_carried))
    rewriter.feed(_FIRST.clean(_markdown(text)))
    rewriter.close()
    return _LAST.clean("".join(rewriter.html))


def _markdown(text: str) -> str:
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        # Cells are aligned by an inline style, which the Content-Security-Policy forbids.
        if style := token.attrs.pop("style", None):
            token.attrs["align"] = str(style).removeprefix("text-align:")
    return str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


class _Targets:
    """The targets of links and images on this hub."""

    def __init__(self, revision: Revision, files: Files, prefix: str, is_carried: IsCarried) -> None:
        self._is_carried = is_carried
        self._prefix = prefix
        self._revision = revision
        self._files = files.files

    def link(self, url: str) -> str | None:
        """Return the URL for a link; None if it is invalid."""
        if url.startswith("#"):
            return f"#{ID_PREFIX}{url[1:]}"
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        fragment = f"#{quote(parts.fragment)}" if parts.fragment else ""
        path = self._path(url)
        if path is None and parts.netloc in PUBLIC_HOSTS and self._is_other(parts.path):
            return f"{self._prefix}{quote(unquote(parts.path))}{fragment}"
        if path is None:
            return f"https:{url}" if parts.netloc and not parts.scheme else url
        if path.startswith("/"):
            return f"{self._prefix}/{quote(path.lstrip('/'))}{fragment}"
        target = file_url if path in self._files else folder_url
        return self._prefix + target(self._revision, path) + fragment

    def image(self, url: str) -> str | None:
        """Return the URL of an image in the repo; None for others."""
        path = self._path(url)
        return self._prefix + file_url(self._revision, path) if path and path in self._files else None

    def _path(self, url: str) -> str | None:
        """Return the path in the repo, or on the hub with a leading slash; None for another host."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        if parts.scheme or parts.netloc:
            return self._path_on_hub(parts.path) if parts.netloc in PUBLIC_HOSTS else None
        if parts.path.startswith("/"):
            return self._path_on_hub(parts.path) or unquote(parts.path)
        path = posixpath.normpath(unquote(parts.path))
        while path.startswith("../"):
            path = path.removeprefix("../")
        return "" if path in {".", ".."} else path

    def _is_other(self, path: str) -> bool:
        """Tell whether a path on the Hub is of another repo that is carried."""
        target = parse_repo_path(path)
        return target is not None and self._is_carried(target.repo_type or "model", target.repo_id)

    def _path_on_hub(self, path: str) -> str | None:
        target = parse_repo_path(path)
        if target is None:
            return None
        is_own = (target.repo_type, target.repo_id) == (self._revision.repo_type, self._revision.repo_id)
        return target.path.rstrip("/") if is_own else None


class _Rewriter(HTMLParser):
    """Rewrites the links, images and headings of well-formed HTML into `html`."""

    def __init__(self, targets: _Targets) -> None:
        super().__init__(convert_charrefs=True)
        self.html: list[str] = []
        self._targets = targets
        self._slugs: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        # The position of the open heading in `html`, and its attributes.
        self._heading: tuple[int, dict[str, str]] = (0, {})
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        for name in {"id", "name"} & given.keys():
            given[name] = ID_PREFIX + given[name]
        # The cleaner leaves an empty one of a class that it removes.
        if not given.get("class"):
            given.pop("class", None)
        if tag == "img":
            self._image(given)
            return
        if tag == "a" and "href" in given:
            given["href"] = self._targets.link(given["href"]) or "#"
        if tag in _HEADINGS:
            self._heading, self._words = (len(self.html), given), []
        if tag == "pre":
            given["tabindex"] = "0"
        if tag == "table":
            self._tag("div", {"class": "scrolled", "tabindex": "0"})
        if tag not in _VOID:
            self._inside[tag] += 1
        self._tag(tag, given)

    def handle_endtag(self, tag: str) -> None:
        self._inside[tag] -= 1
        if tag in _HEADINGS:
            at, given = self._heading
            self.html[at] = _start(_HEADINGS[tag], {"id": self._slug("".join(self._words)), **given})
        self.html.append(f"</{_HEADINGS.get(tag, tag)}>")
        if tag == "table":
            self.html.append("</div>")

    def handle_data(self, data: str) -> None:
        self._words.append(data)
        if self._inside["a"] or self._inside["code"] or self._inside["pre"]:
            self.html.append(escape(data))
            return
        end = 0
        for match in _BARE_URL.finditer(data):
            self.html.append(escape(data[end : match.start()]))
            self._text_link(match[0], {"href": self._targets.link(match[0]) or "#"})
            end = match.end()
        self.html.append(escape(data[end:]))

    def _image(self, given: dict[str, str]) -> None:
        """Show an image of the repo; of others only the description, as a link if possible."""
        source = given.get("src", "")
        if own := self._targets.image(source):
            self._tag("img", {**given, "src": own})
            return
        text = given.get("alt", "").strip() or posixpath.basename(source.partition("?")[0]) or source
        if not self._inside["a"] and (href := self._targets.link(source)) and urlsplit(href).scheme:
            self._text_link(text, {"href": href, "class": "image"})
        else:
            self.html.append(f'<span class="image">{escape(text)}</span>')

    def _text_link(self, text: str, attributes: dict[str, str]) -> None:
        self._tag("a", attributes)
        self.html.append(f"{escape(text)}</a>")

    def _tag(self, tag: str, attributes: dict[str, str]) -> None:
        self.html.append(_start(tag, attributes))

    def _slug(self, text: str) -> str:
        """Return a heading's ID in the form of GitHub, so that links inside a README work."""
        slug = _NOT_IN_SLUG.sub("", text.strip().lower()).replace(" ", "-")
        self._slugs[slug] += 1
        count = self._slugs[slug] - 1
        return f"{ID_PREFIX}{slug}-{count}" if count else ID_PREFIX + slug


def _start(tag: str, attributes: dict[str, str]) -> str:
    given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{given}>"
