"""The six images: one shape, all they copy exists, all a service imports is pinned."""

import tomllib

import pytest
from packaging.utils import canonicalize_name

from paceline_common import topics
from paceline_local.layout import REPOSITORY

SHAPE = """\
# Build from the repository's root: docker build -f services/{service}/Dockerfile .
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN pip install --require-hashes -r requirements/build.txt
RUN pip install --require-hashes --ignore-installed --prefix=/installed -r requirements/runtime.txt
{copies}
RUN pip install --no-deps --no-build-isolation --prefix=/installed {members}

FROM python:3.11-slim
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN pip uninstall --yes --root-user-action=ignore setuptools wheel pip
COPY --from=build /installed /usr/local
USER 65534
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "paceline_{service}"]"""


def project(folder: str) -> dict[str, list[str]]:
    """Return the build and runtime requirements that a member declares."""
    declared = tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text())
    return {
        "build": declared["build-system"]["requires"],
        "run": declared["project"]["dependencies"],
    }


def members(service: str) -> list[str]:
    """Return the folders of a service's own packages, libraries first."""
    libraries = [
        f"libs/{name.removeprefix('paceline-')}"
        for name in project(f"services/{service}")["run"]
        if name.startswith("paceline-")
    ]
    return [*sorted(libraries), f"services/{service}"]


@pytest.mark.parametrize("service", topics.SERVICES)
def test_an_image_has_the_one_shape_and_holds_what_its_service_needs(service: str) -> None:
    lines = (REPOSITORY / "services" / service / "Dockerfile").read_text().splitlines()
    found = "\n".join(line for line in lines if not line.startswith("# SIGTERM"))
    needed = members(service)
    assert found == SHAPE.format(
        service=service,
        copies="\n".join(f"COPY {folder} {folder}" for folder in needed),
        members=" ".join(f"./{folder}" for folder in needed),
    )
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.split()[1:]
            assert [one for one in sources if not (REPOSITORY / one).exists()] == []


@pytest.mark.parametrize("service", topics.SERVICES)
def test_what_builds_and_runs_a_service_is_pinned(service: str) -> None:
    for use, file in (("build", "build"), ("run", "runtime")):
        pinned = {
            line.partition("==")[0]
            for line in (REPOSITORY / "requirements" / f"{file}.txt").read_text().splitlines()
            if "==" in line
        }
        wanted = {
            canonicalize_name(name.partition("[")[0])
            for folder in members(service)
            for name in project(folder)[use]
            if not name.startswith("paceline-")
        }
        assert wanted - pinned == set()
