"""The files for Slurm and Kubernetes say what a training on two hosts needs, and can be read."""

import re
import subprocess

import yaml

from tests.conftest import PROJECT

FOLDER = PROJECT / "docs" / "machines"
LAUNCH = ("--master", "--nnodes", "--rank", "--nproc_per_node 8", "ppcls)")


def test_the_batch_script_is_bash_that_asks_for_two_hosts() -> None:
    path = FOLDER / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "1", "8")
    assert all(word in text for word in LAUNCH)


def test_the_manifest_is_an_indexed_job_with_a_name_for_its_master() -> None:
    service, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 2
    assert spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    command = container["args"][0]
    subprocess.run(["bash", "-n", "-c", command], check=True)
    assert f"--master {job['metadata']['name']}-0.{pod['subdomain']}:" in command
    assert all(word in command for word in LAUNCH)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
