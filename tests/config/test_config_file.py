"""config.toml as a user writes it, rightly and wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec.config import OPTIONS, read_config
from edgespec.config.file import set_value, unset_value
from edgespec.config.keymap import DEFAULT_KEYS, check_clashes, check_keys
from edgespec.config.options import find_option
from edgespec.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_no_file_is_an_empty_config(path: Path) -> None:
    assert read_config(path).values == {}


def test_what_the_file_says(path: Path) -> None:
    path.write_text('model = "a"\nhistory = false\n[sampling]\ntemperature = 1\ntop-k = 40\n[keys]\nstop = "F6"\n')
    config = read_config(path)
    assert config.values == {
        "model": "a",
        "history": False,
        "sampling.temperature": 1.0,
        "sampling.top-k": 40,
        "keys.stop": "f6",
    }
    assert config.flags() == {"model": "a", "history": False, "temp": 1.0, "top_k": 40}
    assert config.keys() == {"stop": "f6"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modell = 'a'", "there is no option modell; did you mean model?"),
        ("temperature = 0.5", "there is no option temperature; did you mean sampling.temperature?"),
        ("[sampling]\ntopk = 3", "there is no option sampling.topk; did you mean sampling.top-k?"),
        ("zzz = 1", "there is no option zzz; it is one of model, draft,"),
        ("model = 3", "model cannot be 3; it must be a text in quotes."),
        ("threads = true", "threads cannot be True; it must be a whole number."),
        ("threads = 0", "threads cannot be 0; it must be between 1 and 256."),
        ("[sampling]\ntemperature = nan", "sampling.temperature cannot be nan; it must be 0"),
        ("[sampling]\ntop-p = 1.5", "sampling.top-p cannot be 1.5; it must be 0.000001 to 1."),
        ("history = 'no'", "history cannot be 'no'; it must be true or false."),
        ("device = 'xpuxyz'", "device cannot be 'xpuxyz'; it is one of auto, cpu, cuda."),
        ("device = 'gpu'", "device cannot be 'gpu'; did you mean cpu?"),
        ("[screen]\ntheme = 'draculla'", "screen.theme cannot be 'draculla'; did you mean dracula?"),
        ("system = ''", "system cannot be empty; `edgespec config unset system` takes it out."),
        ("[model]\nname = 'a'", "there is no option model.name; "),
        ("sampling = 3", "there is no option sampling; "),
        ("[keys]\nstop = 'ctrl+n'", "ctrl+n cannot be both keys.stop and keys.new-chat; change one of them."),
        ("[keys]\nstop = 'x'", "keys.stop cannot be x, which is needed to write and to leave; choose another."),
        ("[keys]\nstop = 'tab'", "keys.stop cannot be tab, which is needed"),
        ("[keys]\nstop = 'f6, ctrl+c'", "keys.stop cannot be ctrl+c, which is needed"),
        ("[keys]\nstop = 'hyperspace'", "keys.stop cannot be 'hyperspace'; write keys like ctrl+t"),
        ("model = ", "it is no TOML ("),
    ],
)
def test_one_sentence_with_the_file_and_the_option(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"model = '\xff'")
    with pytest.raises(UsageError, match="no TOML"):
        read_config(path)


def test_setting_keeps_comments_order_and_links(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles.toml"
    kept.write_text('# mine\nmodel = "a"  # the small one\n\n[sampling]\ntop-k = 40\n')
    kept.chmod(0o600)
    path.symlink_to(kept)
    set_value(path, OPTIONS["model"], "b")
    set_value(path, OPTIONS["sampling.temperature"], 0.5)
    assert kept.read_text() == '# mine\nmodel = "b"  # the small one\n\n[sampling]\ntop-k = 40\ntemperature = 0.5\n'
    assert path.is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_setting_makes_file_and_table_and_unsetting_takes_them_back(path: Path) -> None:
    inside = path.parent / "new" / "config.toml"
    set_value(inside, OPTIONS["keys.stop"], "f6")
    assert read_config(inside).keys() == {"stop": "f6"}
    assert unset_value(inside, "keys.stop")
    assert not unset_value(inside, "keys.stop")
    assert inside.read_text().strip() == ""


def test_a_clash_is_not_written(path: Path) -> None:
    set_value(path, OPTIONS["keys.stop"], "f6")
    before = path.read_text()
    with pytest.raises(UsageError, match="f6 cannot be both"):
        set_value(path, OPTIONS["keys.new-chat"], "f6")
    assert path.read_text() == before


def test_a_wrong_file_can_be_repaired_option_by_option(path: Path) -> None:
    path.write_text("modell = 1\nthreads = 0\n")
    set_value(path, OPTIONS["threads"], 2)
    assert unset_value(path, "modell")
    assert read_config(path).values == {"threads": 2}


def test_what_cannot_be_written_is_said(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        set_value(path, OPTIONS["threads"], 2)


@pytest.mark.parametrize(
    ("typed", "name"), [("temperature", "sampling.temperature"), ("TOP_K", "sampling.top-k"), ("model", "model")]
)
def test_the_last_part_of_a_name_is_enough(typed: str, name: str) -> None:
    assert find_option(typed).name == name


@pytest.mark.parametrize(
    ("name", "text", "value"), [("history", "off", False), ("threads", "2", 2), ("top-p", "1", 1.0)]
)
def test_what_is_typed_becomes_a_value(name: str, text: str, value: object) -> None:
    assert find_option(name).parse(text) == value


@pytest.mark.parametrize(("name", "text"), [("history", "maybe"), ("threads", "two"), ("top-p", "")])
def test_what_is_no_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError, match="it must be"):
        find_option(name).parse(text)


def test_the_keys_that_the_chat_comes_with_are_keys_and_do_not_clash() -> None:
    for action, keys in DEFAULT_KEYS.items():
        assert check_keys(action, keys) == keys
    check_clashes({})
