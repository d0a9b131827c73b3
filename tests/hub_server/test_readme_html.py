"""READMEs become sanitized HTML with links and images to this hub."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.file_index import BlobRange, IndexedFile
from llmstack.hub_server.pages.readme_html import ATTRIBUTES, ID_PREFIX, MAX_TAGS, MAX_TEXT, SCHEMES, TAGS, render
from llmstack.hub_server.repos import Files, Revision
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = Digest("sha256:" + "0" * 64)
REVISION = Revision(
    repo_type="model",
    repo_id="org/model",
    name="v 1",
    commit=COMMIT,
    image="registry/models:org--model--v_1",
    digest=DIGEST,
    size=0,
    files=3,
    license=None,
    gated=False,
    created=None,
    needs_extract=False,
    reader=Layout(Path("nowhere")),
)
PATHS = ("LICENSE", "a b/pic é.png", "pic.png")
FILES = Files({path: IndexedFile(path, 1, "0" * 40, "0" * 64, (BlobRange(DIGEST, 0, 1),)) for path in PATHS}, {})
OWN = f"/org/model/resolve/{COMMIT}"
REL = 'rel="nofollow noopener noreferrer"'


def html(text: str) -> str:
    return render(text, REVISION, FILES).strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[x](LICENSE)", f'<a href="{OWN}/LICENSE" {REL}>x</a>'),
        ("[x](./LICENSE?raw=true#l1)", f'<a href="{OWN}/LICENSE#l1" {REL}>x</a>'),
        ("[x](../../LICENSE)", f'<a href="{OWN}/LICENSE" {REL}>x</a>'),
        ("[x](a%20b/)", f'<a href="/org/model/tree/v%201/a%20b" {REL}>x</a>'),
        ("[x](https://huggingface.co/org/model/blob/main/LICENSE)", f'<a href="{OWN}/LICENSE" {REL}>x</a>'),
        ("[x](https://huggingface.co/org/other/blob/main/LICENSE)", "https://huggingface.co/org/other/blob/main/LIC"),
        ("[x](/org/other)", f'<a href="/org/other" {REL}>x</a>'),
        ("[x](/\\evil.example)", f'<a href="/%5Cevil.example" {REL}>x</a>'),
        ("[x](//evil.example/y)", f'<a href="https://evil.example/y" {REL}>x</a>'),
        ("[x](#the-end)", f'<a href="#readme-the-end" {REL}>x</a>'),
        ("see https://arxiv.org/abs/1 (new).", f'"https://arxiv.org/abs/1" {REL}>https://arxiv.org/abs/1</a> ('),
        ("`https://arxiv.org`", "<code>https://arxiv.org</code>"),
        ("![p](pic.png)", f'<img src="{OWN}/pic.png" alt="p">'),
        ("![p](<a b/pic é.png>)", f'<img src="{OWN}/a%20b/pic%20%C3%A9.png" alt="p">'),
        ("![p](https://huggingface.co/org/model/resolve/main/pic.png)", f'<img src="{OWN}/pic.png" alt="p">'),
        ('<img src="pic.png" width="60%" onerror="x()">', f'<img src="{OWN}/pic.png" width="60%">'),
        ("![p](gone.png)", '<span class="image">p</span>'),
        ("![](https://a.example/b/c.png?d)", f'<a href="https://a.example/b/c.png?d" class="image" {REL}>c.png</a>'),
        ("[![p](https://a.example/b)](LICENSE)", f'<a href="{OWN}/LICENSE" {REL}><span class="image">p</span></a>'),
        ("# A *b*: c!\n# A b c", '<h2 id="readme-a-b-c">A <em>b</em>: c!</h2>\n<h2 id="readme-a-b-c-1">A b c</h2>'),
        ('<h1 align="center" id="top">T</h1>', '<h2 id="readme-top" align="center">T</h2>'),
        ("|a|b|\n|:-:|--|\n|1|2|", '<td align="center">1</td>\n<td>2</td>'),
        ("|a|\n|-|", '<div class="scrolled" tabindex="0"><table>'),
        ("~~a~~", "<s>a</s>"),
        ("```js\n<script>\n```", '<pre tabindex="0"><code>&lt;script&gt;\n</code></pre>'),
        ("<details><summary>a</summary>\n\n**b**\n\n</details>", "<summary>a</summary>"),
    ],
)
def test_links_images_and_headings(text: str, expected: str):
    assert expected in html(text)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<style>body{display:none}</style>",
        "<svg onload=alert(1)>",
        "<iframe src=https://evil.example></iframe>",
        "<form action=/x><input name=search></form>",
        "<base href=https://evil.example>",
        "<meta http-equiv=refresh content='0;url=https://evil.example'>",
        "<object data=x></object><embed src=x><video src=x></video>",
    ],
)
def test_unsafe_elements_are_removed(text: str):
    assert re.sub(r"</?p>", "", html(text)).strip() == ""


@pytest.mark.parametrize(
    "text", ["[a](javascript:x)", "<a href='jAvascript:x'>a</a>", "<a href=' &#1;javascript:x'>a</a>", "[a](data:a,b)"]
)
def test_links_that_run_scripts_are_removed(text: str):
    assert "href" not in html(text) or 'href="#"' in html(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a_1 * b_2 * c$", '<p><code class="math">a_1 * b_2 * c</code></p>'),
        (r"so \\(x_{i} \le y_{j}\\) is", r'<p>so <code class="math">x_{i} \le y_{j}</code> is</p>'),
        ("$$\n{a}_{b}\n- c\n= d\n$$", '<pre class="math" tabindex="0"><code>{a}_{b}\n- c\n= d</code></pre>'),
        ("> $$a_b$$", '<blockquote>\n<pre class="math" tabindex="0"><code>a_b</code></pre>\n</blockquote>'),
        ("$5 or $6, $x$5", "<p>$5 or $6, $x$5</p>"),
        (r"\[WIP\] \(a\) $ $ $$ $$$", "<p>[WIP] (a) $ $ $$ $$$</p>"),
        ("$$\nnever", "<p>$$\nnever</p>"),
        ("`$a$`", "<p><code>$a$</code></p>"),
        ("$<img src=x onerror=alert(1)>$", '<p><code class="math">&lt;img src=x onerror=alert(1)&gt;</code></p>'),
        ("- $$a\n- b$$", "<ul>\n<li>$$a</li>\n<li>b$$</li>\n</ul>"),
    ],
)
def test_formulas_keep_their_source(text: str, expected: str):
    assert html(text) == expected


@pytest.mark.parametrize("text", ["<div>" * (MAX_TAGS + 1), "a" * (MAX_TEXT + 1)])
def test_a_too_long_readme_is_shown_as_plain_text(text: str):
    assert html(text) == f"<pre>{text.replace('<', '&lt;').replace('>', '&gt;')}</pre>"


FRAGMENTS = st.sampled_from(
    [
        *("<script>", "</script>", "<img src=", "<img src=x onerror=alert(1)>", "<a href=", "javascript:x()", "'", '"'),
        *("<svg>", "<math>", "<style>", "<!--", "-->", "]]>", "<![CDATA[", "<p id=x class=y style=z>", "</p>", "<h1>"),
        *("data:text/html,<script>", "vbscript:", "\t", "\n\n", "&#106;", "&colon;", "//e.example", "/\\e.example"),
        *("![a](", "[a](", ")", "pic.png", "`", "```", "|a|\n|-|\n", "# ", "> ", "<noscript>", "<title>", "<textarea>"),
        *("</a>", "<table>", "<td>", "<mglyph>", "<template>", "<xmp>", "<plaintext>", "\x00", "https://", "#"),
        *("$", "$$"),
    ]
)


class Checker(HTMLParser):
    """Fails on elements and attributes that are not allowed."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert value is not None
            assert name in ATTRIBUTES.get(tag, set()) | {"class", "rel", "tabindex"}
            assert name != "class" or value in {"", "image", "math", "scrolled"}
            if name in {"id", "name"}:
                assert value.startswith(ID_PREFIX)
            if name == "src":
                assert value.startswith(f"{OWN}/")
            if name == "href":
                self.check_link(value)

    def check_link(self, value: str) -> None:
        # Browsers ignore some characters in a URL, and read a backslash as a slash.
        seen = re.sub(r"[\t\r\n]", "", value).strip().replace("\\", "/")
        scheme = urlsplit(seen).scheme
        assert scheme in SCHEMES or (seen.startswith(("/", "#")) and not seen.startswith("//"))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


@given(st.lists(FRAGMENTS | st.text(max_size=8), max_size=12).map("".join))
def test_any_readme_is_sanitized(text: str):
    checker = Checker()
    checker.feed(html(text))
    checker.close()
