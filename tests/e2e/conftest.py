"""conftest.py - fixtures of the end-to-end tests.

TEST_MLXD is the binary (default: build/mlxd), TEST_MODEL the real model; without the latter the
tests that need it are skipped. When a test fails, the logs of the processes it used are shown, and
kept in build/e2e-logs.
"""

import os
import re
import shutil

import pytest

import harness

LOGS = os.path.join(harness.ROOT, "build", "e2e-logs")


def pytest_sessionstart():
    shutil.rmtree(LOGS, ignore_errors=True)


def pytest_runtest_setup():
    """What has ended before this test is of no interest when it fails."""
    harness.STARTED[:] = [n for n in harness.STARTED if n.running()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        name = re.sub(r"[^\w.-]+", "_", item.nodeid)
        for device, text in harness.keep_logs(os.path.join(LOGS, name)):
            report.sections.append((f"end of the log of {device}", text))
    return report


@pytest.fixture(scope="session")
def mlxd():
    path = os.environ.get("TEST_MLXD") or os.path.join(harness.ROOT, "build", "mlxd")
    assert os.access(path, os.X_OK), f"{path} is no program: build it, or set TEST_MLXD"
    return os.path.abspath(path)


@pytest.fixture(scope="session")
def model():
    path = os.environ.get("TEST_MODEL")
    if not path:
        pytest.skip("TEST_MODEL does not name the model file")
    return os.path.abspath(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory, mlxd, model):
    """Certificates and key for the processes of a module."""
    return harness.World(tmp_path_factory.mktemp("world"), mlxd, model)


@pytest.fixture(scope="module")
def cluster(world):
    """Three processes with the real model, shared by the tests of a module."""
    with harness.Cluster(world, args=("--parallel", 4, "--ctx", 2048)) as c:
        yield c
