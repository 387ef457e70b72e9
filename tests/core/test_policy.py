"""The policy file: what is read, what is told, and what is refused, with place and hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.architectures import ARCHITECTURES, CUDA_ARCHITECTURES
from ds01_spawner.core.bundles import BUNDLES
from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.options import KEYS
from ds01_spawner.core.packages import pip_requirement
from ds01_spawner.core.policy import NO_GROUP, CustomImage, PackageRules, Policy, parse
from ds01_spawner.core.policy_schema import PresetPart
from ds01_spawner.core.runs import RunsOn
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.errors import Finding, PolicyRefused

REAL = Path(__file__).parents[3] / "shared" / "data" / "ds01-resource-limits.yaml"
GIB = 1 << 30

needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="the real limits file is in ../shared/data, which is not here"
)


def refused(text: str, **more: Any) -> tuple[Finding, ...]:
    """The problems of a policy that must not be read."""
    with pytest.raises(PolicyRefused) as caught:
        parse(text, **more)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


# --- both generations of DS01's file ---------------------------------------------------------

OLD = """\
defaults:
  max_mig_instances: 2
  max_gpus_per_container: 1
  allow_full_gpu: false
  gpu_memory: null
  max_cpus: 16
  memory: 32g
  storage_workspace: 100G
  storage_tmp: 50G
  max_runtime: 24h
  idle_timeout: 0.5h
  gpu_hold_after_stop: null
  container_hold_after_stop: 30m
  max_tasks: 512
  priority: 10
default_group: student
groups:
  student:
    members: [204214, h.baker@hertie-school.lan]
  admin:
    members:
      - datasciencelab
    max_mig_instances: null
    max_runtime: null
user_overrides:
gpu_allocation:
"""

NEW = """\
defaults:
  max_gpu_equivalents: 2.0
  max_gpu_slots_per_container: 1
  allow_full_gpu: false
  max_cpus: 16
  memory: 32g
  storage_tmp: 50G
  max_runtime_h: 24
  idle_timeout_h: 0.5
  gpu_hold_after_stop_h: null
  container_hold_after_stop_h: 0.5
default_group: student
groups:
  student:
    members: ["204214", h.baker@hertie-school.lan]
  admin:
    max_gpu_equivalents: null
    max_runtime_h: null
"""


def test_both_generations_say_the_same() -> None:
    old, new = parse(OLD), parse(NEW, {"admin": ["datasciencelab"]})
    assert {k: v for k, v in old.defaults.items() if k != "priority"} == new.defaults
    assert (old.groups, old.default_group) == (new.groups, new.default_group)
    assert old.groups["student"].members == {"204214", "h.baker@hertie-school.lan"}
    assert new.defaults == {
        "max_gpu_equivalents": 2.0,
        "max_gpu_slots_per_container": 1,
        "allow_full_gpu": False,
        "max_cpus": 16,
        "memory": 32 * GIB,
        "storage_tmp": 50 * GIB,
        "max_runtime_h": 24,
        "idle_timeout_h": 0.5,
        "gpu_hold_after_stop_h": None,
        "container_hold_after_stop_h": 0.5,
    }


def test_what_is_read_but_not_done_is_told_once() -> None:
    told = {n.where: n.problem for n in parse(OLD, source="limits.yaml").notices}
    old_name = "is an old name, read as max_gpu_equivalents."
    assert told == {
        "limits.yaml:2: defaults.max_mig_instances": f"{old_name} The same in 1 more.",
        "limits.yaml:3: defaults.max_gpus_per_container": "is an old name, read as "
        "max_gpu_slots_per_container.",
        "limits.yaml:8: defaults.storage_workspace": "is known to DS01, and not applied here.",
        "limits.yaml:13: defaults.container_hold_after_stop": "is read, not enforced by this "
        "version.",
        "limits.yaml:14: defaults.max_tasks": "is known to DS01, and not applied here.",
    }


@needs_real
def test_the_real_file_is_read_unchanged() -> None:
    policy = parse(REAL.read_text(encoding="utf-8"), source=REAL.name)
    assert list(policy.groups) == ["student", "researcher", "faculty", "admin"]
    assert policy.default_group == "student"
    assert policy.users == policy.presets == {}
    told = {n.where.rsplit(" ", 1)[1]: n.problem for n in policy.notices}
    assert "not enforced by this version" in told["groups.student.aggregate"]
    for section in ("enforcement", "policies", "container_types", "access_control"):
        assert told[section].startswith("is known to DS01, and not applied here.")


# --- bad input, row by row (what DS01 made of it is in the comment) ----------------------------


@pytest.mark.parametrize(
    ("text", "where", "problem", "hint"),
    [
        # a traceback
        ("", "p:1", "is empty.", "Write sections"),
        ("# nothing\n", "p:1", "is empty.", "Write sections"),
        ("- a\n- b\n", "p:1", "is a list, not a mapping.", "Write sections"),
        ("just text", "p:1", "is 'just text', not a mapping.", "Write sections"),
        ("groups: [student]", "p:1: groups", "is a list, not a mapping.", "Write `key: value`"),
        ("groups: {a: 3}", "p:1: groups.a", "is 3, not a mapping.", "Write `key: value`"),
        ("groups: {a: {members: bob}}", "p:1: groups.a.members", "is 'bob', not a list of", ""),
        ("groups: {a: {members: [[b]]}}", "p:1: groups.a.members.0", "is not a name.", ""),
        ("defaults:\n  memory: [1\n", "p:3", "is not YAML:", ""),
        ("defaults:\n\tmemory: 1\n", "p:2", "is not YAML:", ""),
        ("user_overrides: [a]", "p:1: user_overrides", "is a list, not a mapping.", ""),
        # silently the defaults only
        ("default_group: studnt\ngroups: {student: {}}", "p:1: default_group",
         "'studnt' is not a group of this file.", "Did you mean student?"),
        # a ValueError when somebody starts a server
        ("defaults:\n  max_gpu_equivalents: two", "p:2: defaults.max_gpu_equivalents",
         "'two' is not a number of GPUs.", "Write a plain number"),
        ("defaults:\n  max_gpu_equivalents: unlimited", "p:2: defaults.max_gpu_equivalents",
         "'unlimited' is not a number of GPUs.", "Write null for no limit."),
        # accepted
        ("defaults:\n  max_gpu_equivalents: -1", "p:2: defaults.max_gpu_equivalents",
         "-1 is not a number of GPUs.", "Write null for no limit."),
        ("defaults:\n  max_gpu_equivalents: -0.5", "p:2: defaults.max_gpu_equivalents",
         "-0.5 is not between 0 and", ""),
        # became 16
        ("defaults:\n  max_cpus: 0", "p:2: defaults.max_cpus", "0 is not between 0.01 and", ""),
        # 32 bytes
        ("defaults:\n  memory: 32", "p:2: defaults.memory", "32 is a size without its unit.",
         "Write 32G"),
        ('defaults:\n  memory: "32"', "p:2: defaults.memory", "'32' is not a size.", "32G"),
        # read as 48 seconds once
        ("defaults:\n  max_runtime: 48", "p:2: defaults.max_runtime", "48 has no unit.",
         'Write "48h", or max_runtime_h: 48.'),
        ("defaults:\n  idle_timeout: never", "p:2: defaults.idle_timeout",
         "'never' is not a duration.", "null for no limit"),
        # a slice without a name
        ("user_overrides: {'': {max_cpus: 1}}", "p:1: user_overrides.", "has an empty name.", ""),
        ("groups: {'': {}}", "p:1: groups.", "has an empty name.", ""),
    ],
)  # fmt: skip
def test_ds01s_bad_input_is_refused_with_place_and_hint(
    text: str, where: str, problem: str, hint: str
) -> None:
    (found,) = refused(text, source="p")
    assert found.where == where
    assert found.problem.startswith(problem)
    assert hint in found.hint


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("defaults:", "defaults", {}),
        ("groups:", "groups", {}),
        ("defaults: {memory: null}", "defaults", {"memory": None}),
        ("defaults: {max_gpu_equivalents: 0}", "defaults", {"max_gpu_equivalents": 0.0}),
        ("defaults: {max_containers_per_user: 0}", "defaults", {"max_containers_per_user": 0}),
        ("user_overrides:", "users", {}),
        ("user_overrides: {bob: }", "users", {"bob": {}}),
        ("user_overrides: {12345: {max_cpus: 2}}", "users", {"12345": {"max_cpus": 2.0}}),
        ("user_overrides: {0123: {}, on: {}}", "users", {"0123": {}, "on": {}}),
        ("default_group: 7\ngroups: {7: }", "default_group", "7"),
        ("groups: {student: }", "default_group", "student"),
        ("groups: {staff: }", "default_group", None),
    ],
)
def test_odd_input_has_a_defined_value(text: str, key: str, value: object) -> None:
    assert getattr(parse(text), key) == value


def test_an_empty_mapping_is_told() -> None:
    told = [str(n) for n in parse("groups:\n  a:\n    members:\n  b:\n").notices]
    assert told == ["policy:4: groups.b: is empty: it sets no limit."]


@pytest.mark.parametrize(
    ("text", "where", "problem", "hint"),
    [
        # unknown keys
        ("defualts: {}", "p:1: defualts", "is not a known section.", "Did you mean defaults?"),
        ("x: {}", "p:1: x", "is not a known section.", "Known here: access_control"),
        ("defaults: {max_cpu: 3}", "p:1: defaults.max_cpu", "is not a known key.",
         "Did you mean max_cpus?"),
        ("groups:\n  a:\n    memmory: 3g", "p:3: groups.a.memmory", "is not a known key.",
         "Did you mean memory?"),
        ("groups: {a: {member: []}}", "p:1: groups.a.member", "is not a known key.",
         "Did you mean members?"),
        ("defaults: {members: []}", "p:1: defaults.members", "is not a known key.", ""),
        ("groups: {a: {aggregate: {gpu_limits: 2}}}", "p:1: groups.a.aggregate.gpu_limits",
         "is not a known key.", "Did you mean gpu_limit?"),
        # values
        ("defaults: {allow_full_gpu: 'yes'}", "p:1: defaults.allow_full_gpu",
         "'yes' is not true or false.", ""),
        ("defaults: {allow_full_gpu: null}", "p:1: defaults.allow_full_gpu",
         "null is not true or false.", ""),
        ("defaults: {max_cpus: true}", "p:1: defaults.max_cpus", "true is not a number of", ""),
        ("defaults: {max_cpus: 010}", "p:1: defaults.max_cpus", "'010' is not a number of", ""),
        ("defaults: {max_cpus: .inf}", "p:1: defaults.max_cpus", "'.inf' is not a number of", ""),
        ("defaults: {max_cpus: 1.0e99}", "p:1: defaults.max_cpus", "1e+99 is not between", ""),
        ("defaults: {pids_limit: 1.5}", "p:1: defaults.pids_limit", "1.5 is not a whole", ""),
        ("defaults: {pids_limit: 0}", "p:1: defaults.pids_limit", "0 is not between 1 and", ""),
        ("defaults: {memory: 1k}", "p:1: defaults.memory", "'1k' is too little", "at least 6M"),
        ("defaults: {shm_size: 0g}", "p:1: defaults.shm_size", "'0g' is no possible size.", ""),
        ("defaults: {memory: 999999999999999T}", "p:1: defaults.memory", "'9", ""),
        ("defaults: {max_runtime_h: 24h}", "p:1: defaults.max_runtime_h",
         "'24h' is not a number of hours.", "This key ends in _h: write 24 for 24h."),
        ("defaults: {max_runtime_h: 24:00}", "p:1: defaults.max_runtime_h", "'24:00' is not", ""),
        ("defaults: {max_runtime_h: 0}", "p:1: defaults.max_runtime_h", "0 hours would end", ""),
        ("defaults: {max_runtime: 0h}", "p:1: defaults.max_runtime", "0 hours would end", ""),
        ("defaults: {priority: 101}", "p:1: defaults.priority", "101 is not between 1 and", ""),
        ("defaults: {memory: {a: 1}}", "p:1: defaults.memory", "a mapping is a size without", ""),
        # one limit twice
        ("defaults:\n  cpus: 3\n  max_cpus: 4", "p:3: defaults.max_cpus",
         "is another name of cpus, which says something else.", "Keep one of the two"),
        ("defaults:\n  memory: 3g\n  memory: 3g", "p:3: defaults.memory",
         "is here twice, first in line 2.", "Delete one of the two."),
        # not the YAML we read
        ("a: !!python/name:os.system x", "p:1: a", "has the tag", "Delete the tag."),
        ("defaults: &a {x: *a}", "p:1: defaults.x", "contains itself.", ""),
        ("? [a, b]\n: c", "p:1", "has a key that is not plain text.", ""),
        ("a: 1\n---\nb: 2", "p:2", "is not YAML:", ""),
        ("a: \x07", "p:1", "is not YAML: it has a character", ""),
        ("[" * 3000, "p:1", "is not usable: it is nested too deeply.", ""),
        # packages and bundles
        ("bundles: {x: }", "p:1: bundles.x", "does not list names of packages.", "as a list"),
        ("bundles: {x: [-e .]}", "p:1: bundles.x.0", "'-e .' is an editable installation", ""),
        (
            "packages: {pip_allow: [rich, pandas>=2]}", "p:1: packages.pip_allow.1",
            "'pandas>=2' is more than a name.", "Write the name alone",
        ),
        (
            f"bundles: {{x: ['rich==1 --hash=sha256:{'0' * 64}']}}", "p:1: bundles.x",
            "has hashes; several bundles", "a preset's pip may have hashes",
        ),
        ("bundles: {'a/b': []}", "p:1: bundles.a/b", "is not a name for a bundle.", ""),
        ("packages: {max_pip: many}", "p:1: packages.max_pip", "'many' is not a whole", ""),
        ("packages: {max_pip: -1}", "p:1: packages.max_pip", "-1 should be greater than", ""),
        ("packages: {allow_url: true}", "p:1: packages.allow_url", "is not a known key.",
         "Did you mean allow_urls?"),
        # where images run
        ("runs_on: {a/*: sometimes}", "p:1: runs_on.a/*", "is 'sometimes'.",
         "Write any, or one of architectures, compute_capability, cuda."),
        ("runs_on: {a/*: [any]}", "p:1: runs_on.a/*", "is a list.", "Write any, or"),
        ("runs_on: {a/*: }", "p:1: runs_on.a/*", "is empty.", "Write any, or"),
        ("runs_on: {a/*: {}}", "p:1: runs_on.a/*", "is empty.", "Write any, or"),
        ("runs_on: [a]", "p:1: runs_on", "is a list, not a mapping.", ""),
        ("runs_on: {'a b?': any}", "p:1: runs_on.a b?", "matches no image.", "framework/version"),
        ("runs_on: {a: {cuda: 12}}", "p:1: runs_on.a.cuda", "'12' is not a version.", "12.8"),
        ("runs_on: {a: {cuda: [12, 8]}}", "p:1: runs_on.a.cuda", "a list is not a version.", ""),
        ("runs_on: {a: {compute_capability: sm_90}}", "p:1: runs_on.a.compute_capability",
         "'sm_90' is not a version.", ""),
        ("runs_on: {a: {archs: [CUDA]}}", "p:1: runs_on.a.archs", "is not a known key.",
         "architectures"),
        ("runs_on: {a: {architectures: [CUDA_ADAA]}}", "p:1: runs_on.a.architectures.0",
         "is not a known architecture.", "Did you mean CUDA_ADA?"),
        ("runs_on: {a: {architectures: CUDA}}", "p:1: runs_on.a.architectures", "'CUDA' is not a",
         ""),
        ("runs_on: {a: {architectures: []}}", "p:1: runs_on.a.architectures", "is empty.", ""),
        ("runs_on: {a: any, a: any}", "p:1: runs_on.a", "is here twice", "Delete one"),
        # images of the admin's own
        ("images: [a]", "p:1: images", "is a list, not a mapping.", ""),
        ("images: {x: lab/x}", "p:1: images.x", "is 'lab/x', not a mapping.", "`key: value`"),
        ("images: {x: {title: T}}", "p:1: images.x.image", "is missing.", ""),
        ("images: {x: {image: lab/x}}", "p:1: images.x.title", "is missing.", ""),
        ("images: {x: {image: lab/x, title: ''}}", "p:1: images.x.title", "is empty.", ""),
        ("images: {a b: {image: lab/x, title: T}}", "p:1: images.a b",
         "is not a name for an image.", "letters, digits"),
        ("images: {latest: {image: lab/x, title: T}}", "p:1: images.latest",
         "is not a name for an image.", "latest stands for the first"),
        ("images: {'a|b': {image: lab/x, title: T}}", "p:1: images.a|b", "is not a name", ""),
        ("images: {x: {image: Lab/X, title: T}}", "p:1: images.x.image",
         "'Lab/X' is not the name of an image.", "with its tag or digest"),
        ("images: {x: {image: 'lab/x:1 --privileged', title: T}}", "p:1: images.x.image",
         "'lab/x:1 --privileged' is not the name of", ""),
        ("images: {x: {image: 'lab/x@sha256:12', title: T}}", "p:1: images.x.image",
         "'lab/x@sha256:12' is not the name of", ""),
        ("images: {x: {image: 'https://lab/x', title: T}}", "p:1: images.x.image",
         "'https://lab/x' is not the name of", ""),
        ("images: {x: {image: [lab/x], title: T}}", "p:1: images.x.image", "a list is not text.",
         ""),
        ("images: {x: {image: lab/x, title: T, framework: PyTorch}}", "p:1: images.x.framework",
         "'PyTorch' is not a framework that an image can be", "Did you mean Pytorch?"),
        ("images: {x: {image: lab/x, title: T, framework: ''}}", "p:1: images.x.framework",
         "'' is not a framework", "Jax, Mxnet, Pytorch, Tensorflow"),
        ("images: {x: {image: lab/x, title: T, architectures: [CUDA_ADAA]}}",
         "p:1: images.x.architectures.0", "is not a known architecture.", "mean CUDA_ADA?"),
        ("images: {x: {image: lab/x, title: T, architectures: []}}",
         "p:1: images.x.architectures", "is empty.", ""),
        ("images: {x: {image: lab/x, title: T, group: [a]}}", "p:1: images.x.group",
         "is not a known key.", "Did you mean groups?"),
        ("images: {x: {image: lab/x, title: T, groups: bio}}", "p:1: images.x.groups",
         "'bio' is not a list.", ""),
        ("images:\n  x: {image: lab/x, title: T}\n  x: {image: lab/y, title: T}", "p:3: images.x",
         "is here twice, first in line 2.", ""),
        ("image: {}", "p:1: image", "is not a known section.", "Did you mean images?"),
        ("presets: {p: {title: T, framework: custom}}", "p:1: presets.p.version",
         "'latest' is not a custom image of this file.", "Known here: none."),
        ("images: {gene: {image: lab/x, title: T}}\n"
         "presets: {p: {title: T, framework: custom, version: genes}}", "p:2: presets.p.version",
         "'genes' is not a custom image of this file.", "Did you mean gene?"),
        ("images: {gene: {image: lab/x, title: T, framework: Jax}}\n"
         "presets: {p: {title: T, framework: custom, version: gene}}", "p:2: presets.p.version",
         "'gene' is not a custom image of this file.", ""),
        # one mistake: the preset's image is there
        ("images: {gene: {image: lab/x}}\n"
         "presets: {p: {title: T, framework: custom, version: gene}}", "p:1: images.gene.title",
         "is missing.", ""),
        # seats
        ("sharing: {}", "p:1: sharing.seats", "is missing.", ""),
        ("sharing: 8", "p:1: sharing", "is 8, not a mapping.", ""),
        ("sharing: {seats: 1}", "p:1: sharing.seats", "1 is not between 2 and 48.", ""),
        ("sharing: {seats: 49}", "p:1: sharing.seats", "49 is not between 2 and 48.", ""),
        ("sharing: {seats: 2.5}", "p:1: sharing.seats", "2.5 is not a whole number.", ""),
        ("sharing: {seats: 8, gpu: shared}", "p:1: sharing.gpu", "'shared' is not a kind of GPU.",
         "any, full or 1g.10gb"),
        ("sharing: {seats: 8, max_devices: 0}", "p:1: sharing.max_devices", "0 is not between 1",
         ""),
        ("sharing: {seats: 8, max_device: 1}", "p:1: sharing.max_device", "is not a known key.",
         "Did you mean max_devices?"),
        ("run_on: {}", "p:1: run_on", "is not a known section.", "Did you mean runs_on?"),
        ("packages: {pip_allow: [a b]}", "p:1: packages.pip_allow.0", "'a b' is not a package", ""),
        ("packages: {apt_allow: [Git]}", "p:1: packages.apt_allow.0", "'Git' is not written", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_place_and_hint(
    text: str, where: str, problem: str, hint: str
) -> None:
    (found,) = refused(text, source="p")
    assert found.where == where
    assert found.problem.startswith(problem)
    assert hint in found.hint


def test_all_mistakes_are_told_at_once() -> None:
    found = refused(
        "defaults: {memry: 3g}\ngroups: {a: {max_cpus: x}}", overrides="bob: {cpus: -2}"
    )
    assert [p.where for p in found] == [
        "policy:1: defaults.memry",
        "policy:2: groups.a.max_cpus",
        "user-overrides.yaml:1: bob.cpus",
    ]


def test_an_alias_and_its_name_may_agree() -> None:
    assert parse("defaults: {cpus: 3, max_cpus: 3}").defaults == {"max_cpus": 3.0}


def test_anchors_and_merges_work() -> None:
    text = "groups:\n  a: &a {max_cpus: 2, memory: 1g}\n  b:\n    <<: *a\n    memory: 2g\n"
    assert parse(text).groups["b"].limits == {"max_cpus": 2.0, "memory": 2 * GIB}


def test_aliases_of_aliases_do_not_grow_without_end() -> None:
    bomb = "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'] * 9)}]\n" for i in range(9)
    )
    (found,) = refused(bomb)
    assert found.problem == "is not usable: it has more than 100000 values."


def test_memory_above_memory_swap_is_told() -> None:
    told = parse(
        "defaults: {memory: 32g, memory_swap: 32g}\ngroups:\n  a:\n    memory: 64g\n"
        "user_overrides: {bob: {memory: null}}",
        overrides="eve: {memory_swap: 16g}\nmax: {max_cpus: 2}",
    ).notices
    assert [n.where for n in told] == [
        "policy:4: groups.a.memory",
        "policy:5: user_overrides.bob.memory",
        "user-overrides.yaml:1: eve.memory_swap",
    ]
    assert told[0].problem == (
        "memory (64 GiB) is above memory_swap (32 GiB), which counts memory and swap together: "
        "the lower one holds."
    )


@given(st.one_of(st.text(), st.text(" \n-:{}[]&*!?<a1'\"#", max_size=40)))
def test_any_text_is_a_policy_or_is_refused(text: str) -> None:
    try:
        assert isinstance(parse(text, overrides=text), Policy)
    except PolicyRefused as error:
        assert error.problems


leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
tree = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["members", "memory", "max_cpus", "aggregate", "title", "framework", "pip",
                 "allow", "gpus", "cpus", "x", "max_runtime", "version", "groups", "image"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(
            ["defaults", "groups", "user_overrides", "presets", "bundles", "packages",
             "default_group", "policies", "runs_on", "sharing", "images"]
        ),
        st.one_of(tree, st.dictionaries(st.text(max_size=4), tree, max_size=3)),
        max_size=4,
    )
)  # fmt: skip
def test_any_shape_is_a_policy_or_is_refused(data: dict[str, Any]) -> None:
    import yaml

    text = yaml.safe_dump(data)
    try:
        assert isinstance(parse(text), Policy)
    except PolicyRefused as error:
        assert all(problem.where.startswith("policy:") for problem in error.problems)


# --- users, groups, members ------------------------------------------------------------------

PEOPLE = """\
default_group: student
groups:
  student: {}
  staff: {members: [eve, both]}
  admin: {members: [both, 12345]}
"""


@pytest.mark.parametrize(
    ("user", "groups", "group"),
    [
        ("nobody", (), "student"),
        ("eve", (), "staff"),
        ("both", (), "staff"),  # the first in the file's order
        ("12345", (), "admin"),
        ("filed", (), "admin"),  # from a members file
        ("nobody", ("admin",), "admin"),  # JupyterHub's groups count as the file's do
        ("nobody", ("admin", "staff"), "staff"),
        ("eve", ("student",), "student"),
        ("nobody", ("chess-club",), "student"),
    ],
)
def test_a_user_has_one_group(user: str, groups: tuple[str, ...], group: str) -> None:
    assert parse(PEOPLE, {"admin": ["filed"]}).group_of(user, groups) == group


def test_without_a_default_group_there_may_be_none() -> None:
    assert parse("groups: {staff: }").group_of("bob") == NO_GROUP
    assert Policy().group_of("bob") == NO_GROUP


def test_the_overrides_file_wins_user_by_user() -> None:
    policy = parse(
        "user_overrides: {bob: {max_cpus: 1}, eve: {max_cpus: 2}}",
        overrides="# ours\n204214@hertie-school.lan:\n  max_runtime_h: null\nbob: {memory: 4g}\n",
    )
    assert policy.users == {
        "bob": {"memory": 4 * GIB},
        "eve": {"max_cpus": 2.0},
        "204214@hertie-school.lan": {"max_runtime_h": None},
    }


def test_an_overrides_file_of_comments_is_empty() -> None:
    assert parse("groups: {a: }", overrides="# none yet\n").users == {}


def test_reservations_are_told_and_a_reason_is_not() -> None:
    text = (
        "user_overrides:\n  bob:\n    max_cpus: 4\n    reason: thesis\n    reserved_gpus: [0]\n"
        '    reservation_end: "2026-01-01T00:00:00"\n'
    )
    policy = parse(text)
    assert policy.users == {"bob": {"max_cpus": 4.0}}
    assert [n.where for n in policy.notices] == [
        "policy:5: user_overrides.bob.reserved_gpus",
        "policy:6: user_overrides.bob.reservation_end",
    ]


def test_members_of_no_group_are_told() -> None:
    (told,) = parse("groups: {a: {max_cpus: 1}}", {"b": ["bob"]}).notices
    assert told.problem == "there are members for b, which is not a group here."


# --- presets, bundles, packages --------------------------------------------------------------

PRESET = """\
groups: {staff: }
presets:
  dl101:
    title: Deep Learning 101
    description: Weeks 1 to 12
    groups: [dl101-students, staff]
    framework: Pytorch
    version: 2.10
    architecture: CUDA_ADA
    bundles: [datascience]
    pip: [pandas>=2]
    apt: [htop]
    gpus: 1
    gpu: 1g.10gb
    gpu_memory: 8G
    memory: 16G
    hours: 2
    recommended: true
    allow: [hours, pip]
  small: {title: Small, framework: Tensorflow}
"""


def test_a_preset_is_options_with_a_title() -> None:
    policy = parse(PRESET)
    preset = policy.presets["dl101"]
    assert (preset.name, preset.title, preset.recommended) == ("dl101", "Deep Learning 101", True)
    assert preset.groups == ("dl101-students", "staff")
    assert preset.allow == {"hours", "pip"}
    assert preset.options() == {
        "framework": "Pytorch",
        "version": "2.10",  # as it was written, not the number 2.1
        "architecture": "CUDA_ADA",
        "bundles": ["datascience"],
        "pip": ["pandas>=2"],
        "apt": ["htop"],
        "gpus": 1,
        "gpu": "1g.10gb",
        "gpu_memory": "8G",
        "memory": "16G",
        "hours": 2.0,
    }
    assert policy.presets["small"].options() == {"framework": "Tensorflow", "version": "latest"}
    assert set(preset.options()) <= set(KEYS)


def test_who_sees_a_preset() -> None:
    policy = parse(PRESET, {"staff": ["eve"]})
    assert list(policy.presets_of("bob")) == ["small"]
    assert list(policy.presets_of("bob", ("dl101-students",))) == ["dl101", "small"]
    assert list(policy.presets_of("eve")) == ["dl101", "small"]


def test_a_group_that_only_jupyterhub_may_have_is_told() -> None:
    told = [n for n in parse(PRESET).notices if "dl101-students" in n.problem]
    assert [n.where for n in told] == ["policy:6: presets.dl101.groups.0"]


@pytest.mark.parametrize(
    ("body", "where", "problem", "hint"),
    [
        ("{framework: P}", "title", "is missing.", ""),
        ("{title: T}", "framework", "is missing.", ""),
        ("{title: '', framework: P}", "title", "is empty.", ""),
        ("{titel: x, title: T, framework: P}", "titel", "is not a known key.", "mean title?"),
        ("{title: T, framework: [P]}", "framework", "a list is not text.", ""),
        ("{title: T, framework: P, architecture: CUDA_ADAA}", "architecture",
         "is not a known architecture.", "Did you mean CUDA_ADA?"),
        ("{title: T, framework: P, bundles: [nlpp]}", "bundles.0", "'nlpp' is not a bundle.",
         "Did you mean nlp?"),
        ("{title: T, framework: P, pip: ['-r x']}", "pip.0", "'-r x' is an option of pip", ""),
        ("{title: T, framework: P, apt: [a b]}", "apt.0", "'a b' is not a system package", ""),
        ("{title: T, framework: P, pip: pandas}", "pip", "'pandas' is not a list.", ""),
        ("{title: T, framework: P, gpu: full}", "gpu", "is only for a preset with", "gpus: 1"),
        ("{title: T, framework: P, gpu_memory: 8G}", "gpu_memory", "is only for a", "gpus: 1"),
        ("{title: T, framework: P, gpus: 1, gpu_memory: 8}", "gpu_memory", "8 is a size without",
         "32G"),
        ("{title: T, framework: P, gpus: 1, gpu: big}", "gpu", "'big' is not a kind of GPU.", ""),
        ("{title: T, framework: P, gpus: 1, gpu: shared}", "gpu", "is a seat, and this file shares",
         "sharing:"),
        ("{title: T, framework: P, gpus: -1}", "gpus", "-1 is not", ""),
        ("{title: T, framework: P, memory: 16}", "memory", "16 is a size without its unit.", ""),
        ("{title: T, framework: P, hours: 2h}", "hours", "'2h' is not a number of hours.", ""),
        ("{title: T, framework: P, allow: [image]}", "allow.0", "'image' should be", ""),
        ("{title: T, framework: P, recommended: 1}", "recommended", "1 is not true or false.", ""),
        ("3", "", "is 3, not a mapping.", ""),
    ],
)  # fmt: skip
def test_a_bad_preset_is_refused(body: str, where: str, problem: str, hint: str) -> None:
    found = refused(f"presets:\n  x: {body}")[0]
    assert found.where == f"policy:2: presets.x{'.' + where if where else ''}"
    assert found.problem.startswith(problem)
    assert hint in found.hint


@pytest.mark.parametrize("section", ["{}", "8", "{seats: 1}"])
def test_a_broken_section_of_shared_gpus_is_one_problem(section: str) -> None:
    seat = "presets: {x: {title: T, framework: P, gpus: 1, gpu: shared}}"
    (found,) = refused(f"sharing: {section}\n{seat}")
    assert found.where.startswith("policy:1: sharing")


def test_a_presets_name_can_stand_in_a_link() -> None:
    (found,) = refused("presets: {'a b': {title: T, framework: P}}")
    assert found.problem == "is not a name for a preset."


def test_a_preset_keeps_to_the_rules_for_packages() -> None:
    rules = "packages: {max_pip: 1, pip_allow: [pandas]}\n"
    found = refused(rules + "presets: {x: {title: T, framework: P, pip: [pandas, scipy]}}")
    assert [p.where for p in found] == ["policy:2: presets.x.pip.1", "policy:2: presets.x.pip"]
    assert "not among the packages" in found[0].problem
    assert found[1].problem == "has more than 1 packages."


def test_the_hashes_of_a_preset_are_of_all_its_packages() -> None:
    hashed = f"rich==14 --hash=sha256:{'0' * 64}"
    preset = "presets: {x: {title: T, framework: P, pip: ['%s', %s]}}"
    assert parse(preset % (hashed, f"'tqdm==4 --hash=sha256:{'1' * 64}'")).presets["x"].pip
    (found,) = refused(preset % (hashed, "tqdm"))
    assert found.where == "policy:1: presets.x.pip"
    assert found.problem.startswith("Line 2: tqdm has no hash, but line 1 has one;")


def test_the_bundles_of_ds01_are_there() -> None:
    """Its package sets (ds01-aime 2.3)."""
    assert BUNDLES == {
        "datascience": ("pandas", "scipy", "scikit-learn", "matplotlib", "seaborn"),
        "ml": ("xgboost", "lightgbm", "catboost", "optuna", "shap"),
        "cv": ("timm", "albumentations", "opencv-python-headless", "kornia", "ultralytics"),
        "nlp": (
            "transformers", "datasets", "tokenizers", "accelerate", "sentencepiece", "peft",
            "safetensors", "evaluate",
        ),
        "rl": ("gymnasium", "stable-baselines3"),
        "audio": ("librosa", "soundfile", "audiomentations"),
        "ts": ("statsmodels", "prophet", "darts"),
        "llm": ("vllm", "bitsandbytes", "langchain", "einops"),
    }  # fmt: skip
    for packages in BUNDLES.values():
        assert [pip_requirement(package, PackageRules()) for package in packages] == [*packages]


def test_what_a_preset_may_open_is_what_options_have() -> None:
    (choices,) = PresetPart.model_fields["allow"].annotation.__args__  # type: ignore[union-attr]
    assert set(choices.__args__) == set(KEYS) - {"v", "preset"}


IMAGES = """\
groups: {bio: {members: [eve]}}
images:
  genomics-2026:
    image: registry.example.org:5000/lab/genomics@sha256:%s
    title: Genomics 2026
    description: With the tools of the course
    framework: Pytorch
    architectures: [CUDA_ADA, CUDA_ADA]
    groups: [bio, lecturers]
  2.10: {image: lab/stats, title: 10}
  cuda: {image: "lab/x:1-cuda12.4", title: X, groups: []}
presets:
  week1: {title: Week 1, framework: Pytorch, version: genomics-2026}
  week2: {title: Week 2, framework: custom, version: 2.10}
  week3: {title: Week 3, framework: Pytorch, version: 2.8.0}
"""


def test_a_custom_image_is_a_row_beside_the_catalogs() -> None:
    digest = "a" * 64
    policy = parse(IMAGES % digest)
    assert list(policy.images.items()) == [
        ("genomics-2026", CustomImage(
            CatalogEntry(
                "Pytorch", "genomics-2026", ("CUDA_ADA",),
                f"registry.example.org:5000/lab/genomics@sha256:{digest}", 3,
                "Genomics 2026", "With the tools of the course",
            ),
            ("bio", "lecturers"),
        )),
        # Nothing said of the devices: whichever there are.
        ("2.10", CustomImage(
            CatalogEntry("custom", "2.10", ARCHITECTURES, "lab/stats", 10, "10"), None
        )),
        ("cuda", CustomImage(
            CatalogEntry("custom", "cuda", CUDA_ARCHITECTURES, "lab/x:1-cuda12.4", 11, "X"), ()
        )),
    ]  # fmt: skip
    assert parse("images:").images == Policy().images == {}
    told = [n for n in policy.notices if "lecturers" in n.problem]
    assert [n.where for n in told] == ["policy:9: images.genomics-2026.groups.1"]


@pytest.mark.parametrize(
    ("user", "groups", "images", "presets"),
    [
        ("bob", (), ["2.10"], ["week2", "week3"]),
        ("eve", (), ["genomics-2026", "2.10"], ["week1", "week2", "week3"]),
        # a group that only JupyterHub has, beside another that the file has first
        ("bob", ("x", "lecturers"), ["genomics-2026", "2.10"], ["week1", "week2", "week3"]),
        ("bob", ("genomics-2026",), ["2.10"], ["week2", "week3"]),
    ],
)
def test_who_may_have_a_custom_image(
    user: str, groups: tuple[str, ...], images: list[str], presets: list[str]
) -> None:
    policy = parse(IMAGES % ("a" * 64))
    assert [entry.version for entry in policy.images_of(user, groups)] == images
    assert list(policy.presets_of(user, groups)) == presets


def test_the_files_bundles_add_and_replace() -> None:
    policy = parse("packages: {pip_allow: []}\nbundles: {nlp: [spacy], maps: [geopandas>=1]}")
    assert policy.bundles == {**BUNDLES, "nlp": ("spacy",), "maps": ("geopandas>=1",)}
    policy = parse("bundles: {ml: [], maps: [' GeoPandas >= 1  # maps', 'rasterio[S3]']}")
    assert policy.bundles == {**BUNDLES, "ml": (), "maps": ("geopandas>=1", "rasterio[s3]")}
    assert Policy().bundles == BUNDLES


def test_package_rules() -> None:
    text = "packages: {allow_urls: true, max_pip: 3, pip_allow: [pandas], apt_allow: [git]}"
    assert parse(text).packages == PackageRules(
        allow_urls=True, max_pip=3, pip_allow=("pandas",), apt_allow=("git",)
    )
    assert parse("packages:").packages == PackageRules()


def test_shared_devices() -> None:
    assert parse("sharing:").sharing is Policy().sharing is None
    assert parse("sharing: {seats: 8}").sharing == Sharing(8, "full", None)
    text = "sharing: {seats: 48, gpu: 1g.10gb, max_devices: 2}\n"
    assert parse(text).sharing == Sharing(48, "1g.10gb", 2)
    preset = "presets: {x: {title: T, framework: P, gpus: %d, gpu: shared}}"
    assert parse(text + preset % 1).presets["x"].gpu == "shared"
    (found,) = refused(text + preset % 2)
    assert (found.where, found.problem) == (
        "policy:2: presets.x.gpus", "is too many: a seat is on one GPU.",
    )  # fmt: skip


def test_where_images_run() -> None:
    text = """\
runs_on:
  "aimehub/pytorch-2.8.0-*": any
  Pytorch/2.7.1: {architectures: [CUDA_AMPERE, CUDA_ADA], compute_capability: 8.0, cuda: 12.10}
  "*": {cuda: "12.4", architectures: null}
"""
    assert list(parse(text).runs_on.items()) == [  # in file order: the first that matches counts
        ("aimehub/pytorch-2.8.0-*", RunsOn(anything=True)),
        ("Pytorch/2.7.1", RunsOn(("CUDA_AMPERE", "CUDA_ADA"), (8, 0), (12, 10))),
        ("*", RunsOn(cuda=(12, 4))),
    ]
    assert parse("runs_on:").runs_on == Policy().runs_on == {}
