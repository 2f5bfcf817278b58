"""A study becomes jobs: what to run, on what, and under which content-addressed key.

A key hashes the job's resolved configuration, the keys of its inputs and the fingerprints of the data that it reads;
no path, date or machine. Fields that cannot matter to a job are set to their defaults first (the temperature of a
model of one language, the adapter ratio of a model without adapters), so that equal work has an equal key: a mono
model serves every pair and every trial of a search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from raylab.config import (
    ADAPTER_VARIANTS,
    CONFLICT_VARIANTS,
    LANGUAGE_SPECIFIC_VARIANTS,
    ConflictConfig,
    FinetuneConfig,
    FinetuneJob,
    ImportJob,
    MetaConfig,
    ModelConfig,
    PrepareJob,
    PretrainJob,
    StudyConfig,
    TextOptions,
    Variant,
)
from raylab.config.probes import ProbeJob, probe_jobs
from raylab.data.extract import relevant_options
from raylab.data.prepare import TRAINED_TOKENIZERS, tokenizer_fingerprint
from raylab.data.source import Source
from raylab.hashing import fingerprint
from raylab.model import model_fingerprint
from raylab.study.space import variants_of

FORMAT = 2
"""Part of every key: raised when the same configuration comes to mean other results."""

Kind = Literal["prepare", "pretrain", "import", "finetune", "probe"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: What sort of work.
        key: Content address of the work and so of its result.
        config: The resolved configuration.
        inputs: Keys of the jobs whose results this one reads.
        labels: The job's place on every axis of the study (variant, languages, task, ...), as text.
        context: Configuration of the inputs that a reader of this job's results wants to see beside its own.
    """

    kind: Kind
    key: str
    config: PrepareJob | PretrainJob | ImportJob | FinetuneJob | ProbeJob
    inputs: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, hash=False, compare=False)
    context: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """A name for people: what runs are called in MLflow and in the progress lines."""
        shown = ("probe", "task", "train_language", "variant", "languages")
        words = [self.kind, *(self.labels[label] for label in shown if label in self.labels)]
        if isinstance(self.config, FinetuneJob):
            words += [f"lr={self.config.learning_rate:g}", f"bs={self.config.batch_size}"]
            if self.config.head_learning_rate is not None:
                words.append(f"head-lr={self.config.head_learning_rate:g}")
            if self.config.freeze != "none":
                words.append("frozen")
        if "until" in self.labels:
            words.append(f"until={self.labels['until']}")
        if "seed" in self.labels:
            words.append(f"seed={self.labels['seed']}")
        return " ".join(words)


@dataclass
class Plan:
    """The jobs of a study, inputs before the jobs that read them.

    Attributes:
        jobs: By key.
        notes: What the study asks for and the data cannot give, one line each.
    """

    jobs: dict[str, Job] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, job: Job) -> Job:
        """Add a job, or return the equal one that is there."""
        return self.jobs.setdefault(job.key, job)

    def note(self, line: str) -> None:
        """Note something once."""
        if line not in self.notes:
            self.notes.append(line)


def plan(study: StudyConfig, source: Source, variants: Iterable[Variant] | None = None) -> Plan:
    """Resolve a study into jobs.

    Args:
        study: The study.
        source: The data that it reads.
        variants: Only these; by default, all the study's.

    Raises:
        raylab.errors.InputError: A language has no text.
    """
    result = Plan()
    wanted = tuple(variants) if variants is not None else study.variants
    for languages, variant, seed in product(study.languages, wanted, study.seeds):
        for known in _languages_of_models(study, languages, variant):
            _plan_model(result, study, source, known, variant, seed)
    return result


def searched_variants(study: StudyConfig) -> tuple[Variant, ...]:
    """The variants that a study's search trains."""
    return variants_of(study)


def _languages_of_models(study: StudyConfig, languages: tuple[str, ...], variant: Variant) -> list[tuple[str, ...]]:
    """The languages of each model that a variant has for a language set."""
    if variant == "mono":
        return [(language,) for language in languages]
    if variant == "external":  # one model serves all sets of a source language, on which it is finetuned once
        sets = [others for others in study.languages if others[0] == languages[0]]
        return [tuple(dict.fromkeys(language for others in sets for language in others))]
    return [languages]


def _plan_model(
    result: Plan, study: StudyConfig, source: Source, languages: tuple[str, ...], variant: Variant, seed: int
) -> None:
    """Add the jobs that make or fetch one model, and those that finetune it."""
    labels = {
        "variant": variant,
        "languages": "-".join(languages),
        "source_language": languages[0],
        "seed": str(seed),
    }
    inputs: tuple[str, ...]
    if variant == "external":
        imported = result.add(_import_job(study))
        labels["recipe"] = imported.key
        inputs = (imported.key,)
    else:
        prepare = result.add(_prepare_job(study, source, languages))
        config = _pretrain_config(study, languages, variant, seed)
        recipe = config.model_dump(mode="json", exclude={"seed"})
        labels["recipe"] = fingerprint({"config": recipe, "inputs": [prepare.key]})
        context = {"data": prepare.config.model_dump(mode="json", exclude={"languages"})}
        inputs = (prepare.key,)
        for segment in _segments(config):
            key = _key("pretrain", segment.model_dump(mode="json"), inputs)
            until = {} if segment.pretrain.until is None else {"until": str(segment.pretrain.until)}
            result.add(Job("pretrain", key, segment, inputs, {**labels, **until}, context))
            inputs = (prepare.key, key)
            for probe in probe_jobs(study.probes, segment):
                if segment is config or probe.snapshot_every:  # models on the way, or the one at the end
                    result.add(_probe_job(probe, key, prepare.key, labels))
        inputs = (key, prepare.key)
    if study.finetune:
        for job in _finetune_jobs(result, study.finetune, source, languages, seed, inputs, labels):
            result.add(job)


def _import_job(study: StudyConfig) -> Job:
    assert study.external is not None  # `load_study` sees to it
    external = study.external
    config = ImportJob(
        model=_absolute(external.model),
        revision=external.revision,
        tokenizer=None if external.tokenizer is None else _absolute(external.tokenizer),
    )
    contents = [model_fingerprint(config.model, config.revision)]
    if config.tokenizer is not None:
        contents.append(model_fingerprint(config.tokenizer, weights=False))
    key = _key("import", {}, contents)
    return Job("import", key, config, labels={"variant": "external"})


def _absolute(model: str) -> str:
    """The path of a local folder, as workers in another working directory find it; a name on the hub as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _probe_job(config: ProbeJob, model: str, prepared: str, labels: dict[str, str]) -> Job:
    key = _key("probe", config.model_dump(mode="json"), (model, prepared))
    return Job("probe", key, config, (model, prepared), {**labels, "probe": config.probe, "checkpoint": model})


def _prepare_job(study: StudyConfig, source: Source, languages: tuple[str, ...]) -> Job:
    data = study.data
    options = relevant_options([source.text(language) for language in languages], data)
    trained = data.tokenizer in TRAINED_TOKENIZERS
    shares = trained and len(languages) > 1
    config = PrepareJob(
        **{name: getattr(options, name) for name in TextOptions.model_fields},
        languages=languages,
        subsample={language: n for language, n in data.subsample.items() if language in languages},
        tokenizer=data.tokenizer if trained else str(Path(data.tokenizer).expanduser().resolve()),
        vocab_size=data.vocab_size if trained else None,
        tokenizer_temperature=data.tokenizer_temperature if shares else 2.0,
    )
    contents = {
        **config.model_dump(mode="json"),
        "tokenizer": tokenizer_fingerprint(config.tokenizer) or data.tokenizer,
    }
    key = _key("prepare", contents, [source.text_fingerprint(language) for language in languages])
    return Job("prepare", key, config, labels={"languages": "-".join(languages)})


def _pretrain_config(study: StudyConfig, languages: tuple[str, ...], variant: Variant, seed: int) -> PretrainJob:
    model, pretrain = study.model, study.pretrain
    if variant not in ADAPTER_VARIANTS:
        model = _with_defaults(model, "adapter_ratio", "adapter_activation")
    if pretrain.until == pretrain.steps:
        pretrain = pretrain.model_copy(update={"until": None})
    if len(languages) == 1:
        changes = (change.model_copy(update={"temperature": None}) for change in pretrain.changes)
        pretrain = pretrain.model_copy(
            update={
                "temperature": 1.0,
                "changes": tuple(change for change in changes if change.learning_rate),
                "gradients_every": 0,
            }
        )
    return PretrainJob(
        languages=languages,
        variant=variant,
        seed=seed,
        model=model,
        pretrain=pretrain,
        meta=_relevant_meta(study.meta) if variant == "meta_adapter" else None,
        conflict=_relevant_conflict(study.conflict, variant) if variant in CONFLICT_VARIANTS else None,
    )


def _segments(config: PretrainJob) -> Iterator[PretrainJob]:
    """The jobs that train one model: one up to each change on the way, and one to the end."""
    pretrain = config.pretrain
    for number, change in enumerate(pretrain.changes):
        before = pretrain.model_copy(update={"changes": pretrain.changes[:number], "until": change.step})
        yield config.model_copy(update={"pretrain": before})
    yield config


def _relevant_conflict(conflict: ConflictConfig, variant: Variant) -> ConflictConfig:
    return conflict if variant == "gradvac" else ConflictConfig(granularity=conflict.granularity)


def _relevant_meta(meta: MetaConfig) -> MetaConfig:
    if meta.method == "exact":
        return meta.model_copy(
            update={name: MetaConfig.model_fields[name].default for name in ("epsilon", "relative", "fidelity_every")}
        )
    return meta


def _with_defaults(model: ModelConfig, *names: str) -> ModelConfig:
    return model.model_copy(update={name: ModelConfig.model_fields[name].default for name in names})


def _finetune_jobs(
    result: Plan,
    finetune: FinetuneConfig,
    source: Source,
    languages: tuple[str, ...],
    seed: int,
    inputs: tuple[str, ...],
    labels: dict[str, str],
) -> Iterator[Job]:
    """The jobs that finetune one model: `inputs` are the keys of the job that gives it, and of its tokenizer's."""
    for task, language in product(finetune.tasks, languages):
        lacking = [split for split in ("train", "dev", "test") if not source.dataset(task, language, split)]
        if lacking == ["train"]:
            result.note(f"{task}: no labelled {language} data to train on; zero-shot transfer to it alone")
        elif lacking:
            result.note(f"{task}: no labelled {language} data with train, dev and test; left out")
        if lacking:
            continue
        is_source = language == languages[0] and "zero_shot" in finetune.settings
        targets = []
        for target in languages[1:] if is_source else ():
            there = [split for split in ("dev", "test") if source.dataset(task, target, split)]
            if len(there) == 2:
                targets.append(target)
            elif there:
                result.note(f"{task}: no labelled {target} data with dev and test; no zero-shot transfer to it")
        for known in (language, *targets):
            for note in source.dataset_notes(task, known):
                result.note(f"{task} {known}: {note}")
        evaluated = ((language,) if "within" in finetune.settings else ()) + tuple(targets)
        if not evaluated:
            continue
        data = [source.dataset_fingerprint(task, language)]
        data += [source.dataset_fingerprint(task, target, ("dev", "test")) for target in targets]
        settings = [name for name, used in (("within", language in evaluated), ("zero_shot", bool(targets))) if used]
        place = {
            "task": task,
            "train_language": language,
            "eval_language": ",".join(evaluated),
            "setting": ",".join(settings),
            "checkpoint": inputs[0],
        }
        own = finetune.for_task(task)
        specific = labels["variant"] in LANGUAGE_SPECIFIC_VARIANTS | {"external"}
        for batch_size, learning_rate, head_learning_rate, freeze in product(
            own.grid.batch_size,
            own.grid.learning_rate,
            own.grid.head_learning_rate or (None,),
            own.grid.freeze if specific else ("none",),
        ):
            config = FinetuneJob(
                task=task,
                train_language=language,
                eval_languages=evaluated,
                seed=seed,
                epochs=own.epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                head_learning_rate=None if head_learning_rate == learning_rate else head_learning_rate,
                freeze=freeze,
                max_length=own.max_length,
                stride=own.stride if task == "qa" else 0,
                max_examples=own.max_examples,
                checkpoints=own.checkpoints,
            )
            key = _key("finetune", config.model_dump(mode="json"), [*inputs, *data])
            yield Job("finetune", key, config, inputs, {**labels, **place})


def _key(kind: Kind, config: dict[str, object], inputs: Iterable[str | None]) -> str:
    return fingerprint({"format": FORMAT, "kind": kind, "config": config, "inputs": list(inputs)})
