"""Keys remember whom they asked, and trust nobody else then."""

from pathlib import Path

import pytest

from candor.agent.daemon import keys, organisers
from candor.topologies.specs.specs import ConfigurationError, SignatureError
from tests.topologies.cluster.test_revisions import ORGANISER, OTHER, make

MINE, THEIRS = ORGANISER.public.hex(), OTHER.public.hex()
FILE = Path("c.toml")


def test_each_organiser_is_remembered_once(tmp_path: Path) -> None:
    assert organisers.asked(tmp_path) is None
    for organiser in (MINE, THEIRS, MINE):
        organisers.remember(tmp_path, organiser)
    assert organisers.asked(tmp_path) == (MINE, THEIRS)
    assert (tmp_path / organisers.FILE_NAME).read_text() == f"{MINE}\n{THEIRS}\n"


def test_a_file_is_taken_from_whom_the_keys_asked(tmp_path: Path) -> None:
    mine, theirs = make(), make(organiser=OTHER)
    for cluster in (mine, theirs):
        organisers.check_signer(cluster, FILE, None, tmp_path)  # asked nobody so far
    organisers.remember(tmp_path, MINE)
    organisers.check_signer(mine, FILE, None, tmp_path)
    with pytest.raises(SignatureError, match=f"signed by {THEIRS[:12]}…, and not by {MINE[:12]}"):
        organisers.check_signer(theirs, FILE, None, tmp_path)
    organisers.check_signer(theirs, FILE, THEIRS, tmp_path)
    with pytest.raises(SignatureError, match="and not by"):
        organisers.check_signer(mine, FILE, THEIRS, tmp_path)
    organisers.remember(tmp_path, THEIRS)
    organisers.check_signer(theirs, FILE, None, tmp_path)


def test_an_emptied_list_trusts_nobody(tmp_path: Path) -> None:
    (tmp_path / organisers.FILE_NAME).touch()
    with pytest.raises(SignatureError, match="and not by anybody"):
        organisers.check_signer(make(), FILE, None, tmp_path)


@pytest.mark.parametrize("text", ["x", MINE[:-1], f"{MINE}\n{THEIRS.upper()}", "\x00"])
def test_a_list_that_cannot_be_read_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / organisers.FILE_NAME).write_text(text)
    for ask in (organisers.asked, lambda path: organisers.remember(path, MINE)):
        with pytest.raises(ConfigurationError, match=r"organisers: '.*' is n"):
            ask(tmp_path)


def test_what_cannot_be_remembered_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write it"):
        organisers.remember(tmp_path / "none", MINE)


def test_an_organiser_is_named_by_key_or_file(tmp_path: Path) -> None:
    public = keys.generate(tmp_path / "keys").public.identity.hex()
    for text in (public, str(tmp_path / "keys"), str(tmp_path / "keys" / keys.PUBLIC_FILE)):
        assert organisers.organiser_key(text) == public
    with pytest.raises(ConfigurationError, match="cannot read the public keys"):
        organisers.organiser_key("nobody")
