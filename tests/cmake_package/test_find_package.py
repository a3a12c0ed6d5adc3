"""``find_package(dcn_deploy)`` in projects of others: installed in a prefix, and with the Python package."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import source_tree

import dcn_deploy
from dcn_deploy._libraries import LIBRARIES
from dcn_deploy.errors import LibraryNotBuiltError

_CONSUMER = Path(__file__).resolve().parent / "consumer"


@pytest.fixture(scope="module")
def consumer(configure, cmake, prefix, tmp_path_factory):
    """Build folder of a project that was configured and built against the prefix."""
    build = tmp_path_factory.mktemp("consumer")
    arguments = [f"-DCMAKE_PREFIX_PATH={prefix}", "-DCONSUMER_COMPONENTS=COMPONENTS;onnxruntime"]
    done = configure(_CONSUMER, build, *arguments, f"-DCONSUMER_VERSION={dcn_deploy.__version__}")
    assert done.returncode == 0, done.stderr
    assert "components: onnxruntime" in done.stdout
    subprocess.run([*cmake, "--build", str(build)], check=True, capture_output=True, timeout=120)
    return build


def test_a_project_finds_and_loads_the_library_where_the_prefix_was_moved_to(consumer, package):
    (library,) = (consumer / "libraries.txt").read_text().splitlines()
    assert Path(library) == package.parents[1] / LIBRARIES["onnxruntime"].filename
    done = subprocess.run([consumer / "consumer", library], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{dcn_deploy.__version__}\n"), done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"expected a plugin library of dcn_deploy, got .*cannot open.*find_package\(dcn_deploy\) gives"),
        ("libm.so.6", r"got one without dcn_deploy_version. Pass the path"),
    ],
)
def test_the_header_says_what_is_wrong_with_a_library(consumer, content, message, tmp_path):
    library = content or str(tmp_path / "nothing.so")
    done = subprocess.run([consumer / "consumer", library], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-DCONSUMER_COMPONENTS=COMPONENTS;tensorrt"],
            "component 'tensorrt': expected one that this installation was built with, which are: onnxruntime. Build "
            "dcn_deploy again",
        ),
        (["-DCONSUMER_COMPONENTS=COMPONENTS;no_such"], "component 'no_such': expected one that"),
        (["-DCONSUMER_VERSION=99.0"], 'compatible with requested version "99.0"'),
    ],
)
def test_what_is_not_there_is_refused(configure, package, arguments, message, tmp_path):
    folder = f"-Ddcn_deploy_DIR={package}"
    done = configure(_CONSUMER, tmp_path, folder, *arguments)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())


def test_an_optional_component_may_be_missing(configure, package, tmp_path):
    components = "-DCONSUMER_COMPONENTS=COMPONENTS;onnxruntime;OPTIONAL_COMPONENTS;tensorrt"
    done = configure(_CONSUMER, tmp_path, f"-Ddcn_deploy_DIR={package}", components)
    assert done.returncode == 0, done.stderr


def test_the_python_package_has_a_target_for_each_of_its_libraries(configure, tmp_path):
    done = configure(_CONSUMER, tmp_path, f"-Ddcn_deploy_DIR={dcn_deploy.cmake_path()}")
    assert done.returncode == 0, done.stderr
    found = {Path(line).resolve() for line in (tmp_path / "libraries.txt").read_text().splitlines()}
    folder = dcn_deploy.cmake_path().parents[1]
    built = {folder / library.filename for library in LIBRARIES.values() if (folder / library.filename).is_file()}
    assert built
    assert found == {path.resolve() for path in built}


def test_an_installation_without_the_package_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("dcn_deploy._libraries._search_path", lambda: [tmp_path])
    with pytest.raises(LibraryNotBuiltError, match=r"dcn_deploy-config.cmake is not part .*looked in .*reinstall"):
        dcn_deploy.cmake_path()


def test_the_header_has_the_names_of_the_python_package():
    from dcn_deploy.schema import DOMAIN, OPERATORS

    text = (source_tree.CHECKOUT / "plugins" / "include" / "dcn_deploy" / "plugins.h").read_text(encoding="utf-8")
    assert f'kDomain[] = "{DOMAIN}"' in text
    (version,) = {schema.plugin_version for schema in OPERATORS.values()}
    assert f'kPluginVersion[] = "{version}"' in text
    for name in [*OPERATORS, *(library.filename for library in LIBRARIES.values())]:
        assert f'[] = "{name}"' in text
