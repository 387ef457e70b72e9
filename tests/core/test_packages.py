"""Package lists as people write them: an exact requirement, or a sentence that says why not."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from ds01_spawner.core.packages import (
    MAX_REQUIREMENT,
    apt_problem,
    combine,
    names,
    pip_requirement,
)


@dataclass(frozen=True)
class Allowed:
    allow_urls: bool = False
    allow_source: bool = False
    pip_allow: tuple[str, ...] | None = None
    apt_allow: tuple[str, ...] | None = None


DEFAULT = Allowed()
A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("pandas", "pandas"),
        ("  Pandas ", "pandas"),
        ("Scikit_Learn", "scikit-learn"),
        ("ruamel.yaml", "ruamel-yaml"),
        # the lower bounds that DS01's generator loses in a shell (ds01-aime 2.7)
        ("pandas>=2.0", "pandas>=2.0"),
        ("numpy >= 1.24", "numpy>=1.24"),
        ("numpy<2", "numpy<2"),
        ("numpy<2,>=1.24", "numpy<2,>=1.24"),
        ("numpy>=1.24, <2", "numpy<2,>=1.24"),
        ("torch==2.7.1+cu126", "torch==2.7.1+cu126"),
        ("torch ~= 2.1", "torch~=2.1"),
        ("foo!=1.5", "foo!=1.5"),
        ("foo==1.*", "foo==1.*"),
        ("rich[jupyter]", "rich[jupyter]"),
        ("Foo[B, a_c]>=1", "foo[a-c,b]>=1"),
        ("torch >= 2.1  # gpu", "torch>=2.1"),
        ('tomli; python_version<"3.11"', 'tomli; python_version < "3.11"'),
        ("tomli>=2 ; sys_platform == 'linux'", 'tomli>=2; sys_platform == "linux"'),
        ("numpy\t>=1.24\t# tabs", "numpy>=1.24"),
        # pip before 24.1 reads what follows === to the next space
        ("foo===1.5;python_version<'3.11'", 'foo===1.5 ; python_version < "3.11"'),
        (f"Pandas==2 --hash=sha256:{A}", f"pandas==2 --hash=sha256:{A}"),
        (f"pandas===2 --hash sha384:{A}{A[:32]}", f"pandas===2 --hash=sha384:{A}{A[:32]}"),
        (
            f"pandas == 2;python_version<'3.11'   --hash=sha512:{B}{B}\t--hash=sha256:{A.upper()}",
            f'pandas==2; python_version < "3.11" --hash=sha256:{A} --hash=sha512:{B}{B}',
        ),
    ],
)
def test_a_requirement_has_one_form(written: str, canonical: str) -> None:
    assert pip_requirement(written, DEFAULT) == canonical
    assert pip_requirement(canonical, DEFAULT) == canonical


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("# just a comment", "is empty"),
        ("-r other.txt", "option of pip"),
        ("-e .", "is an editable"),
        ("--editable=git+https://evil.example/x", "is an editable"),
        ("--index-url https://evil.example/simple", "option of pip"),
        ("--extra-index-url=https://evil.example", "option of pip"),
        ("pandas==2 --hash=sha256:00", "'sha256:00', which is no hash"),
        (f"pandas==2 --hash=md5:{'0' * 32}", "which is no hash"),
        (f"pandas==2 --hash=sha256:{'0' * 63}g", "which is no hash"),
        (f"pandas==2 --hash=sha256:{'0' * 64};reboot", "which is no hash"),
        (f"pandas==2 --hash=sha256:{'0' * 64} -r other.txt", "which is no hash"),
        ("pandas==2 --hash", "which is no hash"),
        ("pandas==2 --hashes", "which is no hash"),
        (f"--hash=sha256:{'0' * 64}", "is a hash without a package"),
        (f"pandas --hash=sha256:{'0' * 64}", "no exact version"),
        (f"pandas>=2 --hash=sha256:{'0' * 64}", "no exact version"),
        (f"pandas==2,!=2.1 --hash=sha256:{'0' * 64}", "no exact version"),
        (f"pandas==2{''.join(f' --hash=sha256:{i:064}' for i in range(401))}", "more than 400"),
        ("pandas -U", "has the option -U of pip"),
        ("pandas --pre", "has the option --pre of pip"),
        ("pandas \\", "characters that no package"),
        # what pip would read in another way than `packaging`
        ('pandas; sys_platform == "a -b"', "take for an option"),
        ("pandas===1.0.zip", "is a file"),
        ("pandas==1.0+a.zip", "is a file"),
        ("pandas===a/../..", "is a file"),
        ("pandas===2,>=1", "has === beside other versions"),
        ("git+https://evil.example/x.git", "is an address"),
        ("https://evil.example/x.whl", "is an address"),
        ("file:///etc/passwd", "is an address"),
        ("foo @ https://evil.example/x.whl", "is an address"),
        ("foo@file:///etc/passwd", "is an address"),
        ("./evil", "is a path"),
        ("../evil", "is a path"),
        ("/etc/passwd", "is a path"),
        ("evil.whl", "is a file"),
        ("evil.tar.gz", "is a file"),
        ("evil.ZIP", "is a file"),
        ("pandas numpy", "is not a package"),
        ("pandas>=", "is not a package"),
        ("pandas=2", "is not a package"),
        ("pandas; rm -rf /", "is not a package"),
        ("pandas && reboot", "is not a package"),
        ("$(reboot)", "characters that no package"),
        ("`reboot`", "characters that no package"),
        ("pandas==${HOME}", "characters that no package"),
        ('pandas; python_version<"${HOME}"', "characters that no package"),
        ("pandas\nRUN reboot", "characters that no package"),
        ("pandas\rRUN reboot", "characters that no package"),
        ("pandas\x00", "characters that no package"),
        ("{{ cookiecutter }}", "characters that no package"),
        ("<script>alert(1)</script>", "is not a package"),
        ("pаndas", "characters that no package"),
        ("pandas\u202e", "characters that no package"),
        ("pandas\u2028numpy", "characters that no package"),
        ("p" * 100_000, f"longer than {MAX_REQUIREMENT}"),
        ("_pandas", "is not a package"),
        ("pandas-", "is not a package"),
        (".", "is a path"),
    ],
)
def test_what_is_no_name_with_versions_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refusal:
        pip_requirement(written, DEFAULT)
    sentence = str(refusal.value)
    assert sentence.isprintable()
    assert len(sentence) < 250


@given(st.text(max_size=60) | st.from_regex(r"[a-z][a-z0-9-]{0,8}([<>=!~]=?.{0,9}|;.{0,20})?"))
def test_any_text_is_refused_in_a_sentence_or_is_one_safe_line(text: str) -> None:
    try:
        line = pip_requirement(text, DEFAULT)
    except ValueError as refusal:
        assert str(refusal).isprintable()
        return
    assert line.isascii()
    assert line.isprintable()
    assert not set(line) & set("$`{}#\\")
    assert " -" not in line.partition(" --hash=")[0]
    assert line[0].isalnum()
    assert Requirement(line).url is None
    assert pip_requirement(line, DEFAULT) == line


def test_addresses_are_allowed_by_policy_only_and_without_passwords() -> None:
    rules = Allowed(allow_urls=True)
    line = "foo @ https://example.org/foo-1.0-py3-none-any.whl"
    assert pip_requirement(line, rules) == line
    with pytest.raises(ValueError, match="name or password"):
        pip_requirement("foo @ https://me:secret@example.org/foo.whl", rules)
    with pytest.raises(ValueError, match="must begin with https"):
        pip_requirement("foo @ http://example.org/foo.whl", rules)
    with pytest.raises(ValueError, match="must begin with https"):
        pip_requirement("foo @ file:///etc/passwd", rules)
    with pytest.raises(ValueError, match="must begin with https"):
        pip_requirement("foo @ git+https://example.org/foo.git", rules)


def test_an_address_may_have_a_hash_in_either_place() -> None:
    rules = Allowed(allow_urls=True)
    line = f"foo @ https://example.org/foo-1.0-py3-none-any.whl#sha256={A}"
    assert pip_requirement(f"{line}  # comment", rules) == line
    line = f"foo @ https://example.org/foo-1.0-py3-none-any.whl --hash=sha256:{A}"
    assert pip_requirement(line, rules) == line
    for fragment in ("#egg=bar", "#sha256=00", "#subdirectory=../..", f"#sha256={A}&egg=bar"):
        with pytest.raises(ValueError, match="characters that no package"):
            pip_requirement(f"foo @ https://example.org/foo-1.0-py3-none-any.whl{fragment}", rules)


@pytest.mark.parametrize("name", ["foo-1.0.tar.gz", "foo-1.0.zip", "foo", "foo.whl?x=.tar.gz"])
def test_an_address_of_what_pip_would_build_needs_source_allowed(name: str) -> None:
    """pip's --only-binary is about what it finds in an index."""
    line = f"foo @ https://example.org/{name}"
    with pytest.raises(ValueError, match="not the address of a wheel"):
        pip_requirement(line, Allowed(allow_urls=True))
    assert pip_requirement(line, Allowed(allow_urls=True, allow_source=True)) == line


@pytest.mark.parametrize(
    "hostile", [" ", "\t", " --hash", "#", " #", "\\", "--hash=", "a --hash=a"]
)
def test_what_is_long_is_read_in_no_time(hostile: str) -> None:
    text = f"pandas{hostile * (100_000 // len(hostile))}x"
    began = time.process_time()
    with suppress(ValueError):
        pip_requirement(text, DEFAULT)
    assert time.process_time() - began < 0.5  # it was minutes with an expression that goes back


def test_an_allow_list_is_compared_by_canonical_name() -> None:
    rules = Allowed(pip_allow=("Scikit_Learn",), apt_allow=("htop",))
    assert pip_requirement("scikit-learn>=1", rules) == "scikit-learn>=1"
    with pytest.raises(ValueError, match="administrator allows: Scikit_Learn"):
        pip_requirement("pandas", rules)
    assert apt_problem("htop", rules) is None
    assert "administrator allows: htop" in str(apt_problem("vim", rules))


@pytest.mark.parametrize("name", ["htop", "g++", "libstdc++6", "python3.11", "7zip"])
def test_system_packages_by_debian_s_grammar(name: str) -> None:
    assert apt_problem(name, DEFAULT) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Htop", "write htop"),
        (" htop", "write htop"),
        ("bash-", "would remove"),
        ("htop=3.2", "without a version"),
        ("htop/sid", "without a version"),
        ("libc6:i386", "without a version"),
        ("-y", "not a system package"),
        ("--allow-unauthenticated", "not a system package"),
        ("a", "not a system package"),
        ("", "not a system package"),
        ("htop vim", "not a system package"),
        ("htop;reboot", "not a system package"),
        ("htop\n", "write htop"),
        ("./evil.deb", "not a system package"),
        ("^.*", "not a system package"),
        ("h" * 1000, "longer than"),
    ],
)
def test_what_apt_would_misread_is_refused(name: str, why: str) -> None:
    problem = apt_problem(name, DEFAULT)
    assert problem is not None
    assert why in problem
    assert problem.isprintable()


@pytest.mark.parametrize(
    ("several", "combined"),
    [
        ((), ()),
        (("pandas", "numpy"), ("numpy", "pandas")),
        (("pandas", "pandas"), ("pandas",)),
        (("pandas", "pandas>=2"), ("pandas>=2",)),
        (("pandas<3", "pandas>=2"), ("pandas<3,>=2",)),
        (("rich[a]", "rich[b]>=1"), ("rich[a,b]>=1",)),
        (
            (f"a==1 --hash=sha256:{B} --hash=sha256:{A}", "a"),
            (f"a==1 --hash=sha256:{A} --hash=sha256:{B}",),
        ),
        (
            ('a; python_version < "3.11"', "a>=2"),
            ('a; python_version < "3.11"', "a>=2"),
        ),
    ],
)
def test_one_line_for_each_name(several: tuple[str, ...], combined: tuple[str, ...]) -> None:
    assert combine(several) == combined
    assert combine(reversed(several)) == combined


def test_names_alone() -> None:
    hashed = f"pandas==2 --hash=sha256:{A}"
    assert names((hashed, "rich[jupyter]", 'tomli; python_version < "3.11"')) == (
        "pandas",
        "rich",
        "tomli",
    )
