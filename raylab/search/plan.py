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
from typing import Any, Literal

from raylab.config import (
    ADAPTER_VARIANTS,
    CONFLICT_VARIANTS,
    ConflictConfig,
    FinetuneConfig,
    FinetuneJob,
    MetaConfig,
    ModelConfig,
    PrepareJob,
    PretrainJob,
    StudyConfig,
    Variant,
)
from raylab.data.source import Source
from raylab.hashing import fingerprint

FORMAT = 1
"""Part of every key: raised when the same configuration comes to mean other results."""

Kind = Literal["prepare", "pretrain", "finetune"]


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
    config: PrepareJob | PretrainJob | FinetuneJob
    inputs: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, hash=False, compare=False)
    context: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """A name for people: what runs are called in MLflow and in the progress lines."""
        shown = ("task", "train_language", "variant", "languages")
        words = [self.kind, *(self.labels[label] for label in shown if label in self.labels)]
        if isinstance(self.config, FinetuneJob):
            words += [f"lr={self.config.learning_rate:g}", f"bs={self.config.batch_size}"]
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
        members = [(language,) for language in languages] if variant == "mono" else [languages]
        for member in members:
            _plan_model(result, study, source, member, variant, seed)
    return result


def _plan_model(
    result: Plan, study: StudyConfig, source: Source, languages: tuple[str, ...], variant: Variant, seed: int
) -> None:
    prepare = result.add(_prepare_job(study, source, languages))
    config = _pretrain_config(study, languages, variant, seed)
    recipe = fingerprint({"config": config.model_dump(mode="json", exclude={"seed"}), "inputs": [prepare.key]})
    labels = {
        "variant": variant,
        "languages": "-".join(languages),
        "source_language": languages[0],
        "seed": str(seed),
        "recipe": recipe,
    }
    key = _key("pretrain", config.model_dump(mode="json"), [prepare.key])
    context = {"data": prepare.config.model_dump(mode="json", exclude={"languages"})}
    pretrain = result.add(Job("pretrain", key, config, (prepare.key,), labels, context))
    if study.finetune:
        for job in _finetune_jobs(result, study.finetune, source, prepare, pretrain, config):
            result.add(job)


def _prepare_job(study: StudyConfig, source: Source, languages: tuple[str, ...]) -> Job:
    config = PrepareJob(
        languages=languages,
        vocab_size=study.data.vocab_size,
        subsample={language: n for language, n in study.data.subsample.items() if language in languages},
        meta_fraction=study.data.meta_fraction,
        invalid_utf8=study.data.invalid_utf8,
    )
    texts = [source.text_fingerprint(language) for language in languages]
    key = _key("prepare", config.model_dump(mode="json"), texts)
    return Job("prepare", key, config, labels={"languages": "-".join(languages)})


def _pretrain_config(study: StudyConfig, languages: tuple[str, ...], variant: Variant, seed: int) -> PretrainJob:
    model, pretrain = study.model, study.pretrain
    if variant not in ADAPTER_VARIANTS:
        model = _with_defaults(model, "adapter_ratio", "adapter_activation")
    if len(languages) == 1:
        pretrain = pretrain.model_copy(update={"temperature": 1.0})
    return PretrainJob(
        languages=languages,
        variant=variant,
        seed=seed,
        model=model,
        pretrain=pretrain,
        meta=_relevant_meta(study.meta) if variant == "meta_adapter" else None,
        conflict=_relevant_conflict(study.conflict, variant) if variant in CONFLICT_VARIANTS else None,
    )


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
    result: Plan, finetune: FinetuneConfig, source: Source, prepare: Job, pretrain: Job, model: PretrainJob
) -> Iterator[Job]:
    for task, language in product(finetune.tasks, model.languages):
        if not all(source.dataset(task, language, split) for split in ("train", "dev", "test")):
            result.note(f"{task}: no labelled {language} data with train, dev and test; left out")
            continue
        is_source = language == model.languages[0] and "zero_shot" in finetune.settings
        targets = []
        for target in model.languages[1:] if is_source else ():
            there = [split for split in ("dev", "test") if source.dataset(task, target, split)]
            if len(there) == 2:
                targets.append(target)
            elif there:
                result.note(f"{task}: no labelled {target} data with dev and test; no zero-shot transfer to it")
        evaluated = ((language,) if "within" in finetune.settings else ()) + tuple(targets)
        if not evaluated:
            continue
        data = [source.dataset_fingerprint(task, language)]
        data += [source.dataset_fingerprint(task, target, ("dev", "test")) for target in targets]
        settings = [name for name, used in (("within", language in evaluated), ("zero_shot", bool(targets))) if used]
        for batch_size, learning_rate in product(finetune.grid["batch_size"], finetune.grid["learning_rate"]):
            config = FinetuneJob(
                task=task,
                train_language=language,
                eval_languages=evaluated,
                seed=model.seed,
                epochs=finetune.epochs,
                batch_size=int(batch_size),
                learning_rate=learning_rate,
                max_length=finetune.max_length,
                max_examples=finetune.max_examples,
            )
            labels = {
                **pretrain.labels,
                "task": task,
                "train_language": language,
                "eval_language": ",".join(evaluated),
                "setting": ",".join(settings),
                "checkpoint": pretrain.key,
            }
            inputs = (pretrain.key, prepare.key)
            key = _key("finetune", config.model_dump(mode="json"), [*inputs, *data])
            yield Job("finetune", key, config, inputs, labels)


def _key(kind: Kind, config: dict[str, object], inputs: Iterable[str | None]) -> str:
    return fingerprint({"format": FORMAT, "kind": kind, "config": config, "inputs": list(inputs)})
