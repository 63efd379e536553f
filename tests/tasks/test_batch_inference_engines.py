"""Ray Data and Spark over files: no row is lost or doubled, also where a process dies."""

import os
import pathlib
import signal
import sys
import time

import pandas as pd
import pytest

from keras_t5gemma2 import BatchInference

pytestmark = [pytest.mark.once, pytest.mark.slow]
COUNT = 64
COLUMNS = {"question": "encoder_text"}
GREEDY = {"temperature": 0, "max_new_tokens": 24}
ROOT = pathlib.Path(__file__).parents[2]


class Watched(BatchInference):
    """Writes down which rows it has seen, and dies or fails once where it is told to."""

    def __init__(self, *args, log, dies_at=None, fails_at=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.log, self.dies_at, self.fails_at = pathlib.Path(log), dies_at, fails_at

    def __call__(self, batch):
        found = super().__call__(batch)
        ids = list(batch["id"])
        with self.log.open("a") as file:
            file.write("".join(f"{id}\n" for id in ids))
        mark = self.log.with_suffix(".once")
        if self.dies_at in ids and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_at in ids:
            for _ in range(120):  # not before others have been written
                time.sleep(0 if list(self.log.parent.glob("done/*")) else 0.5)
            raise ValueError("the disk of this machine is full")
        return found


@pytest.fixture(scope="module")
def rows():
    return pd.DataFrame(
        {"id": range(COUNT), "question": [f"Spell {n} in German." for n in range(COUNT)]}
    )


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-engines`")
    pytest.importorskip("ray.data")
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "tasks")))
    variables = {"KERAS_BACKEND": "torch", "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ.setdefault("RAY_worker_niceness", "0")  # or other tests starve its processes
    ray.init(
        num_cpus=5,  # two of them are actors, the others read and write
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    yield ray
    ray.shutdown()


def answered(ray, source, out, log, **options):
    kwargs = {"columns": COLUMNS, "log": str(log), **GREEDY, **options}
    if str(source).endswith("jsonl"):
        data = ray.data.read_json(str(source), override_num_blocks=8)
    else:  # small files become one block, all of which is read before the first row is written
        data = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=8)
    data = data.map_batches(
        Watched,
        fn_constructor_args=["t5gemma2_tiny"],
        fn_constructor_kwargs=kwargs,
        batch_size=8,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    data.write_parquet(str(out))


def check(out, count=COUNT):
    found = pd.read_parquet(out)
    assert sorted(found["id"]) == list(range(count))
    answers = dict(zip(found["id"], found["output"], strict=True))
    assert answers[7] == "sieben" and answers[42] == "zweiundvierzig"
    return found


@pytest.mark.parametrize("is_ordered", [False, True])
def test_an_actor_that_is_killed_loses_and_doubles_nothing(ray, rows, tmp_path, is_ordered):
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    options = ray.data.DataContext.get_current().execution_options
    options.preserve_order = is_ordered
    log = tmp_path / "log.txt"
    answered(ray, tmp_path / "rows.jsonl", tmp_path / "out", log, dies_at=20)
    assert log.with_suffix(".once").exists()
    assert len(log.read_text().split()) > COUNT  # what died was done again
    found = check(tmp_path / "out")
    if is_ordered:
        assert list(found["id"]) == list(range(COUNT))


def test_a_run_that_failed_goes_on_where_it_was(ray, rows, tmp_path):
    (tmp_path / "rows").mkdir()
    for start in range(0, COUNT, 8):
        rows[start : start + 8].to_parquet(tmp_path / "rows" / f"{start:02}.parquet")
    context, log = ray.data.DataContext.get_current(), tmp_path / "log.txt"
    config = ray.data.checkpoint.CheckpointConfig("id", str(tmp_path / "done"))
    context.checkpoint_config = config
    try:
        with pytest.raises(Exception, match="the disk of this machine is full"):
            answered(ray, tmp_path / "rows", tmp_path / "out", log, fails_at=60)
        done = set(pd.read_parquet(tmp_path / "out")["id"])
        assert 0 < len(done) < COUNT
        log.unlink()
        answered(ray, tmp_path / "rows", tmp_path / "out", log)
    finally:
        context.checkpoint_config = None
    check(tmp_path / "out")
    assert not done & {int(id) for id in log.read_text().split()}


def test_spark_maps_frames_of_pandas(rows, monkeypatch):
    sql = pytest.importorskip("pyspark.sql", reason="Spark is not installed: `make test-engines`")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = sql.SparkSession.builder.master("local[2]").getOrCreate()
    try:
        spell = BatchInference("t5gemma2_tiny", columns=COLUMNS, **GREEDY)
        frame = spark.createDataFrame(rows).repartition(3)
        found = frame.mapInPandas(spell.over, "id long, question string, output string").toPandas()
    finally:
        spark.stop()
    assert sorted(found["id"]) == list(range(COUNT))
    assert dict(zip(found["id"], found["output"], strict=True))[42] == "zweiundvierzig"
