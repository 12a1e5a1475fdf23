"""The pages of the documentation, read as what they are made of: fences, prose, tables, commands.

A comment right before a fence of commands says what its test cannot know: `<!-- not run: WHY -->`,
then its commands are only parsed, or `<!-- exit N: WHY -->`, the exit code of its last command.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
HOWTO: Final = sorted((DOCS / "howto").glob("*.md"))
PAGES: Final = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *HOWTO,
    ROOT / "CONTRIBUTING.md",
    ROOT / "deploy" / "README.md",
    ROOT / "examples" / "README.md",
]

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?(?P<indent> *)```(?P<language>\w*)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block: `note` is the comment right before it, `file` the name under which the
    sentence before it says to save it."""

    language: str
    text: str
    note: str
    file: str | None

    @property
    def is_run(self) -> bool:
        """Whether its commands work where the page says to give them, without anybody else."""
        return self.language == "sh" and not self.note.startswith("not run: ")

    @property
    def exit_code(self) -> int:
        """Of its last command."""
        stated = re.match(r"exit (\d+): ", self.note)
        return int(stated[1]) if stated else 0

    @property
    def lines(self) -> list[str]:
        """Its command lines, those continued by a backslash as one."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        return [line for line in joined.splitlines() if line.strip()]


def all_fences(page: Path) -> list[Fence]:
    """The fenced blocks of a page, in lists too."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        name = re.search(r"(?:[Ss]ave (?:this|it)|[Ss]aved) as\s`([\w.-]+)`[^`]*:$", before)
        note, block = match["note"] or "", dedent(match["text"])
        found.append(Fence(match["language"], block, note, name[1] if name else None))
    return found


def fences(page: Path, language: str) -> list[str]:
    """The text of the fenced blocks of one language."""
    return [fence.text for fence in all_fences(page) if fence.language == language]


def prose(page: Path) -> str:
    """A page without its fenced and indented blocks."""
    return re.sub(r"^ {4}.*$", "", _FENCE.sub("", page.read_text()), flags=re.MULTILINE)


def spans(text: str) -> list[str]:
    """The inline code of a piece of Markdown; a table escapes its bars."""
    return [span.replace(r"\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The (header, rows) of each table."""
    for block in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        yield header, rows


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def fenced_commands(page: Path) -> Iterator[list[str]]:
    """The words behind `candor` of each command line in the fences of a page."""
    for fence in all_fences(page):
        for line in fence.lines if fence.language in ("", "sh") else []:
            if "candor" not in line:
                continue
            words = shlex.split(line, comments=True)
            # Behind another program, only a path says that it is ours and not an image's name.
            starts = [i for i, word in enumerate(words) if word.endswith("/bin/candor")]
            starts += [0] if words[:1] == ["candor"] else []
            for start in starts:
                yield words[start + 1 :]


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The same of the commands that its sentences name, perhaps without what they need."""
    for span in spans(prose(page)):
        if span.startswith("candor "):
            yield shlex.split(span)[1:]
