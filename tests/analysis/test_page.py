"""The page of a study that has everything: probes, a search, failures, curves."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest
from measured_store import write_curves
from mlflow import MlflowClient

import analysis
from analysis import cost, jobs
from analysis.page import report_page
from analysis.publication import NOTE, publish
from analysis.sections import curves, probes, search
from benchmarks.synthetic_study import Size, write_study

SIZE = Size(languages=("fr", "te"), variants=("mono", "joint", "ffn", "meta_adapter"), seeds=2, tasks=("ner",), grid=1)


@pytest.fixture(scope="module")
def rich_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('rich') / 'mlflow.db'}"
    write_study(uri, "rich", SIZE)
    return uri


@pytest.fixture(scope="module")
def rich(rich_store: str) -> analysis.Results:
    return analysis.load("rich", rich_store)


@pytest.fixture(scope="module")
def page(rich: analysis.Results) -> str:
    return report_page(rich)


class Outline(html.parser.HTMLParser):
    """Headings and tables of a page, whose tags must be balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.headers_without_scope = 0
        self.images_without_text = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.headers_without_scope += tag == "th" and "scope" not in given
        self.images_without_text += tag == "img" and not given.get("alt")
        self.images_without_text += tag == "svg" and not (given.get("aria-label") or given.get("aria-hidden"))
        if tag not in ("meta", "img", "br", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_sections_are_there_and_can_be_heard(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.headings == [
        "Study rich",
        "Findings",
        "Negative interference within language",
        "Zero-shot transfer",
        "In the paper's layout",
        "Pretraining",
        "Probes",
        "Search",
        "Cost",
        "What failed",
        "Provenance",
    ]
    assert outline.headers_without_scope == 0
    assert outline.images_without_text == 0


def test_page_refers_to_nothing_outside(page: str) -> None:
    assert "http" not in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page


def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    places = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= places


def test_matrix_has_the_differences(page: str, rich: analysis.Results) -> None:
    cells = re.findall(r'<td class="(harm|gain|none)[^"]*" style="--w:(\d+)%"[^>]*>([^<]*)<', page)
    frame = rich.interference()
    assert len(cells) == len(frame)
    for (side, _, text), difference in zip(cells, frame["difference"], strict=True):
        assert text.replace("−", "-") == f"{difference:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
        assert side == ("harm" if difference > 0 else "gain")
    assert max(int(weight) for _, weight, _ in cells) == 62


def test_failed_jobs_are_named_with_their_reason(page: str) -> None:
    assert "finetune ner te joint en-te lr=0.01 bs=64 seed=0" in page
    assert "loss is not finite at step 12" in page


def test_curves_probes_and_slices_have_a_chart_each(rich: analysis.Results) -> None:
    perplexity, loss = curves(rich)
    assert (len(perplexity.charts), len(loss.charts)) == (4, 2)
    assert "fr in en-fr" in perplexity.charts[1]
    gradients, masks = probes(rich)
    assert len(gradients.charts) == 2
    assert "lower than within in 2 of 2 models" in gradients.text
    layers = masks.tables[1][1]
    assert layers.columns.to_list() == [
        ("attention", 0),
        ("attention", 1),
        ("attention", 2),
        ("ffn", 0),
        ("ffn", 1),
        ("ffn", 2),
    ]
    assert (layers["attention", 0] > layers["attention", 2]).all()
    (trials,) = search(rich)
    assert len(trials.charts) == 3 * 2
    ((_, importance),) = trials.bars
    assert importance["within/mean"].idxmax() == "pretrain.temperature"


def test_cost_counts_both_mono_models_of_a_pair(rich: analysis.Results) -> None:
    from analysis.contrasts import above_joint

    runs = jobs.jobs(rich.runs, "pretrain")
    frame = cost.cost_of_variants(runs, rich.study, {}, above_joint(rich), rich.chosen_recipes()).set_index("variant")
    assert frame.loc["mono", "tokens"] == 2 * frame.loc["joint", "tokens"] == 2 * 2500 * 32 * 64
    assert frame.loc["mono", "ratio"] == pytest.approx(1.8, abs=0.2)
    ffn = frame.loc["ffn"]
    assert ffn["hours_per_point"] == pytest.approx((ffn["hours"] - frame.loc["joint", "hours"]) / ffn["within"])
    gpus = {"scaling": {"use_gpu": True, "num_workers": 4, "cpus_per_worker": 8}}
    assert cost.hour_unit(gpus) == "GPU-hours"
    assert cost.hours(runs[0], gpus) == pytest.approx(4 * runs[0].metrics["seconds"] / 3600)
    assert cost.hours(runs[0], {"scaling": {"cpus_per_worker": 2}}) == pytest.approx(
        2 * runs[0].metrics["seconds"] / 3600
    )


def test_publishing_replaces_the_report_and_describes_the_experiment(
    rich: analysis.Results, rich_store: str, tmp_path: Path
) -> None:
    client = MlflowClient(rich_store)
    experiment = client.get_experiment_by_name("rich")
    files = [tmp_path / "report.html", tmp_path / "table2.csv"]
    for text in ("first", "second"):
        for file in files:
            file.write_text(text)
        place = publish(rich, files)
        (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'report'")
        assert run.info.run_name == "report"
        assert run.info.status == "FINISHED"
        assert run.data.metrics == {}  # else it would stand among the summary runs' charts
        assert place == f"{run.info.artifact_uri}/report.html"
        assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["report.html", "table2.csv"]
        assert (
            Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path / "..")).strip()).read_text()
            == text
        )
        note = client.get_experiment(experiment.experiment_id).tags[NOTE]
        assert note.startswith("Made-up scores, to look at the report with. [Report](#/experiments/")
        assert f"/runs/{run.info.run_id}/artifacts/report.html" in note
        assert "| meta_adapter |" in note
    assert "Interference" in run.data.tags[NOTE]
    # Nothing of it counts as a score, nor is the study read differently.
    assert analysis.load("rich", rich_store).best().equals(rich.best())


def test_gradients_of_training_where_nothing_was_probed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_curves(uri, tmp_path / "jobs", sets=[("en", "hi")], variants=("joint",), probes=(), watched=True)
    (block,) = probes(analysis.load("curves", uri))
    assert (block.title, len(block.charts)) == ("Gradients", 1)
    assert "training's own batches" in block.text
    assert all(pair in block.charts[0] for pair in ("en-hi", "en-en", "hi-hi"))
