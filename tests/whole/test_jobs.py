"""Job files of clusters: their shell is one, and the commands in them have such arguments."""

import re
import shlex
import subprocess

import pytest
import yaml
from repository import ROOT

from t5gemma2_cli.finetune import finetune

pytestmark = pytest.mark.once
JOBS = ROOT / "docs" / "jobs"


def words_after(script, start):
    """The words of the command that begins with `start`, with values in place of variables."""
    text = script.replace("\\\n", " ")
    line = next(line for line in text.splitlines() if start in line)
    line = re.sub(r"\$\{?first\}?", "host0", line[line.index(start) + len(start) :])
    line = line.replace("$resume", "--resume").replace("$SLURM_NNODES", "2")
    return shlex.split(line.replace("$SLURM_JOB_ID", "17"))


def check_finetune(words):
    context = finetune.make_context("finetune", list(words))
    chosen = context.params
    assert chosen["resume"] and chosen["quiet"] and chosen["processes"] == 1
    assert chosen["output"] == "/shared/run" and chosen["dtype"] == "bfloat16"


def test_slurm():
    torch_run = pytest.importorskip("torch.distributed.run")
    path = JOBS / "finetune.slurm"
    subprocess.run(["bash", "-n", path], check=True)
    script = path.read_text()
    options = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    words = words_after(script, "srun torchrun")
    arguments = torch_run.parse_args(words)
    assert arguments.nnodes == options["nodes"] == "2"
    assert arguments.nproc_per_node == options["gpus-per-node"]
    assert arguments.rdzv_endpoint == "host0:29500" and arguments.rdzv_backend == "c10d"
    assert arguments.module and arguments.training_script == "t5gemma2_cli"
    assert arguments.training_script_args[0] == "finetune"
    check_finetune(arguments.training_script_args[1:])


def test_kubernetes():
    service, job = yaml.safe_load_all((JOBS / "finetune.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    template = spec["template"]["spec"]
    assert template["subdomain"] == service["metadata"]["name"] == name
    container = template["containers"][0]
    (script,) = container["args"]
    subprocess.run(["sh", "-n", "-c", script], check=True)
    variables = {one["name"]: one["value"] for one in container["env"]}
    count = variables.pop("KERAS_DISTRIBUTION_NUM_PROCESSES")
    assert int(count) == spec["completions"] == spec["parallelism"]
    # The first pod, by the name that such a job gives it.
    address = variables.pop("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    assert address.startswith(f"{name}-0.{name}:")
    assert variables == {"KERAS_BACKEND": "jax"}
    assert 'KERAS_DISTRIBUTION_PROCESS_ID="$JOB_COMPLETION_INDEX"' in script
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["volumes"]}
    check_finetune(words_after(script, "t5gemma2 finetune"))
