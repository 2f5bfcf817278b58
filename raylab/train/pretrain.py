"""Masked-language-model pretraining of one variant, with the bilevel step of `meta_adapter` (paper, Algorithm 1)."""

from __future__ import annotations

import copy
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raylab.atomic import atomic_path
from raylab.config import CONFLICT_VARIANTS, PretrainJob
from raylab.data.prepare import Prepared
from raylab.data.sampling import language_probabilities, sample_language
from raylab.model import Encoder, save_tokenizer
from raylab.seeding import seed_of
from raylab.train.distributed import ALONE, Workers
from raylab.train.engine import Engine
from raylab.train.masked_text import Batch, MaskedText
from raylab.train.run import Measurement
from raylab.train.schedule import in_force

MEASURE_EVERY = 20  # steps between two measurements of the training loss
_VALIDATION_SEED = 0  # every run of a study is measured on the same masks
_HANDED_ON = "state.pt"  # in the folder of a job with `until`: all that the next one needs


class Step(NamedTuple):
    """An optimizer step that is not measured yet; to read its loss at once would be to wait for the device."""

    number: int
    language: str  # or several, joined
    learning_rate: float
    loss: Tensor | float
    tokens: int
    seconds: float


class PretrainRun:
    """Pretrains one model; a `raylab.train.run.Run`.

    All that is random is a function of the job's seed and of how far the run is, so that a run which goes on from a
    state does, to the bit, what it would have done (on a CPU, with equally many workers and threads).

    Measurements: `train/loss` (nats, mean of the steps since the last one), `train/learning_rate` and
    `train/tokens_per_second` every 20 steps; `valid/perplexity/LANG` every `valid_every` steps, on batches and masks
    that no seed changes; all of these after the last step too. `meta/fidelity`, the cosine of the meta-gradient's
    higher-order part with the exact one, at the first meta step from each multiple of `fidelity_every` on. Of pcgrad
    and gradvac, with the training loss: `conflict/cosine`, the mean over pairs of languages, and `conflict/share`, the
    share of pairs whose cosine is negative. In fp16: `train/skipped_steps` so far, and `train/loss_scale`. With
    `gradients_every`: `gradient/cosine/...`, as `raylab.train.gradients.GradientWatch` says.

    Segments: a job with `until` ends after that step of the schedule, and leaves what a job with a change after that
    step needs to go on. A chain of such jobs ends with the weights and the optimizer of one run through all steps, to
    the bit; only what is measured at the end of each segment comes on top.

    Args:
        job: What to train.
        prepared_folder: What `raylab.data.prepare` wrote for these languages, and perhaps for others.
        folder: The job's own, for models that are kept on the way, in `snapshots/STEP`; needed with `snapshot_every`.
        before: Folder of the finished job that this one goes on from, which ended where this one's last change is;
            default: begin with step 1.
        device: Where to train, as PyTorch names it.
        workers: Who trains the model together. All of them construct an equal run and advance it to the end; they
            measure alike, have equal states, and one of them is enough to save and to finish.
        accumulation: Passes in which each worker takes its share of a batch.
        compile: Compile the encoder's layers.

    Raises:
        InputError: The prepared folder lacks a language, or a split that is needed is empty, or the device cannot
            compute in the precision.
        ValueError: The job lacks `meta` or `conflict` where its variant needs it, or its languages do not fit these; it
            does not go on where the job before ended; or it keeps snapshots and was given no folder.

    Attributes:
        job: As given.
        encoder: The model.
        step: Steps done.
    """

    def __init__(
        self,
        job: PretrainJob,
        *,
        prepared_folder: Path,
        folder: Path | None = None,
        before: Path | None = None,
        device: str = "cpu",
        workers: Workers = ALONE,
        accumulation: int = 1,
        compile: bool = False,
    ):
        if job.variant == "meta_adapter" and job.meta is None:
            raise ValueError("a job for meta_adapter needs `meta`")
        if job.variant in CONFLICT_VARIANTS and job.conflict is None:
            raise ValueError(f"a job for {job.variant} needs `conflict`")
        if job.variant in CONFLICT_VARIANTS and job.pretrain.batch_size % len(job.languages):
            raise ValueError(
                f"batch_size {job.pretrain.batch_size} does not divide over {len(job.languages)} languages"
            )
        if job.meta is not None and job.meta.validate_on == "others" and len(job.languages) == 1:
            raise ValueError("there is no other language to validate on")
        if job.pretrain.snapshot_every and folder is None:
            raise ValueError("a job with `snapshot_every` needs a folder")
        self.job = job
        self.step = 0
        self._meta = job.meta if job.variant == "meta_adapter" else None
        self._surgery = job.variant in CONFLICT_VARIANTS
        self._pending: list[Step] = []
        self._perplexity: dict[str, float] = {}
        self._tokens = 0
        self._seconds = 0.0
        self._handed_on: dict[str, Any] | None = None
        self._last = job.pretrain.steps if job.pretrain.until is None else job.pretrain.until
        self._snapshots = None if folder is None or workers.rank != 0 else folder / "snapshots"

        prepared = Prepared(prepared_folder)
        self._text = {f"train/{language}": self._open(prepared, "train", language) for language in job.languages}
        if self._meta is not None:
            self._text |= {f"meta/{language}": self._open(prepared, "meta", language) for language in job.languages}
        self._drawn = dict.fromkeys(self._text, 0)  # batches
        self._valid = {
            language: self._open(prepared, "valid", language).in_order(job.pretrain.valid_batches)
            for language in job.languages
        }
        self._sizes = {language: prepared.sizes[language] for language in job.languages}
        self._probabilities: dict[float, dict[str, float]] = {}  # by temperature

        torch.manual_seed(seed_of(job.seed, "initialisation"))
        self._tokenizer = prepared.tokenizer_path
        encoder = Encoder(job.model, prepared.tokenizer.vocab_size, job.languages, job.variant)
        self.encoder = encoder.to(torch.device(device))
        self._engine = Engine(
            self.encoder,
            job.pretrain,
            meta=self._meta,
            surgery=job.variant if self._surgery else None,
            conflict=job.conflict,
            seed=job.seed,
            workers=workers,
            accumulation=accumulation,
            compile=compile,
        )
        if before is not None:
            self._go_on_from(before)
        self._first = self.step

    @property
    def finished(self) -> bool:
        """Whether all steps of this job are done."""
        return self.step >= self._last

    @property
    def progress(self) -> float:
        """Share of this job's steps that are done, from 0 to 1."""
        return (self.step - self._first) / (self._last - self._first)

    def advance(self, seconds: float) -> list[Measurement]:
        """Train for about `seconds`, at least one step, and return what was measured.

        Raises:
            FloatingPointError: A loss is NaN or infinite; the message names its step, language and learning rate.
        """
        started = time.perf_counter()
        measurements: list[Measurement] = []
        while not self.finished:
            measurements += self._train_step() + self._engine.compared(self.step)
            measured = self.step % MEASURE_EVERY == 0
            validated = self.step % self.job.pretrain.valid_every == 0
            if measured:
                measurements += self._measure_training()
            if validated:
                measurements += self._measure_validation()
            self._keep_snapshot()
            if self.finished:
                if self.job.pretrain.until is not None:  # as it is before measurements that only this end brings about
                    seconds_so_far = self._seconds + time.perf_counter() - started
                    self._handed_on = {**self.state(), "seconds": seconds_so_far}
                if not measured:
                    measurements += self._measure_training()
                if not validated:
                    measurements += self._measure_validation()
            if time.perf_counter() - started >= seconds:
                break
        self._seconds += time.perf_counter() - started
        return measurements

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as a copy that later steps do not change.

        Raises:
            FloatingPointError: As `advance`: no state is given after a loss that is NaN or infinite.
        """
        self._pending_losses()
        state = {
            "step": self.step,
            "engine": self._engine.state(),
            "drawn": self._drawn,
            "pending": [tuple(step) for step in self._pending],
            "perplexity": self._perplexity,
            "tokens": self._tokens,
            "seconds": self._seconds,
            "handed_on": self._handed_on,
        }
        return _on_cpu(state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that an equal job gave; the state itself stays as it is."""
        state = copy.deepcopy(state)  # the optimizer keeps the tensors that it is given
        self.step = state["step"]
        self._engine.load_state(state["engine"])
        self._drawn = state["drawn"]
        self._pending = [Step(*step) for step in state["pending"]]
        self._perplexity = state["perplexity"]
        self._tokens = state["tokens"]
        self._seconds = state["seconds"]
        self._handed_on = state.get("handed_on")  # an older checkpoint lacks it

    def finish(self, folder: Path) -> dict[str, Any]:
        """Save the encoder and its tokenizer to `folder/model`, as transformers reads them, and return the result.

        With `until`, what the next job needs is in `folder/state.pt`.

        Returns:
            `valid_perplexity` by language, `train_tokens`, `steps`, `parameters` (the model's, all languages together)
            and `seconds` (of work, validation included); tokens, steps and seconds are those of the jobs before too.
        """
        self._save_model(folder / "model")
        if self._handed_on is not None:
            with atomic_path(folder / _HANDED_ON) as temporary:
                torch.save(self._handed_on, temporary)
        for left in (folder / "snapshots").glob(".*"):  # of a process that died as it wrote
            shutil.rmtree(left, ignore_errors=True)
        return {
            "valid_perplexity": dict(self._perplexity),
            "train_tokens": self._tokens,
            "steps": self.step,
            "parameters": sum(parameter.numel() for parameter in self.encoder.parameters()),
            "seconds": self._seconds,
        }

    def _go_on_from(self, before: Path) -> None:
        changes = self.job.pretrain.changes
        state = torch.load(before / _HANDED_ON, map_location="cpu", weights_only=True)
        if not changes or changes[-1].step != state["step"]:
            raise ValueError(f"the job before ended with step {state['step']}; no change of this job is the next")
        self.load_state(state)

    def _save_model(self, folder: Path) -> None:
        self.encoder.save_pretrained(folder)
        save_tokenizer(self._tokenizer, folder)

    def _keep_snapshot(self) -> None:
        """Keep the model if it is due; one that is there was kept by a process that died after it, and is equal."""
        every = self.job.pretrain.snapshot_every
        if self._snapshots is None or not every or self.step % every:
            return
        folder = self._snapshots / str(self.step)
        if not folder.is_dir():
            with atomic_path(folder) as temporary:
                self._save_model(temporary)

    def _language_probabilities(self) -> dict[str, float]:
        """By which the languages of the current step are drawn, or weighted."""
        temperature = in_force(self.job.pretrain, self.step, "temperature")
        if temperature not in self._probabilities:
            self._probabilities[temperature] = language_probabilities(self._sizes, temperature)
        return self._probabilities[temperature]

    def _train_step(self) -> list[Measurement]:
        """One step of Algorithm 1; without a meta step theta and phi move together."""
        started = time.perf_counter()
        measurements: list[Measurement] = []
        self.step += 1
        probabilities = self._language_probabilities()
        languages = self.job.languages
        if not self._surgery:
            languages = (sample_language(probabilities, self.job.seed, self.step),)  # line 5
        batches = [self._next_batch("train", language) for language in languages]
        held_out = self._held_out(batches[0])
        if held_out:
            before = time.perf_counter()
            measurements += self._measure_fidelity(batches[0], held_out)
            started += time.perf_counter() - before  # that was no training

        rate = self._engine.learning_rate(self.step)
        try:
            if self._surgery:
                skipped = self._engine.precision.skipped_steps
                loss = self._engine.surgery_step(self.step, batches, [probabilities[name] for name in languages])
            else:
                if held_out:
                    self._engine.meta_step(self.step, batches[0], held_out)  # line 6
                skipped = self._engine.precision.skipped_steps
                loss = self._engine.step(self.step, batches[0], shared_only=bool(held_out))  # line 7
        except FloatingPointError as error:
            raise FloatingPointError(_diverged(str(error), self.step, "+".join(languages), rate)) from None

        tokens, seconds = sum(batch.inputs.numel() for batch in batches), time.perf_counter() - started
        self._tokens += tokens
        if self._engine.precision.skipped_steps == skipped:  # float16 that overflowed: the scaler sees to it
            self._pending.append(Step(self.step, "+".join(languages), rate, loss, tokens, seconds))
        return measurements

    def _held_out(self, batch: Batch) -> list[Batch]:
        """Validation batches of the step that trains on `batch`; none if it is not a meta step."""
        if self._meta is None or self.step % self._meta.meta_every:
            return []
        others = self._meta.validate_on == "others"
        return [
            self._next_batch("meta", language)
            for language in self.job.languages
            if not (others and language == batch.language)
        ]

    def _measure_fidelity(self, batch: Batch, held_out: list[Batch]) -> list[Measurement]:
        """If it is due; and if it is a number, which in float16 it need not be."""
        assert self._meta is not None
        every = self._meta.fidelity_every
        if not every or self.step // every == (self.step - self._meta.meta_every) // every:
            return []
        cosine = self._engine.fidelity(self.step, batch, held_out)
        return [Measurement("meta/fidelity", cosine, self.step)] if math.isfinite(cosine) else []

    def _measure_training(self) -> list[Measurement]:
        losses = self._pending_losses()
        found: dict[str, float] = {"train/learning_rate": self._engine.learning_rate(self.step)}
        if losses:
            found["train/loss"] = sum(losses) / len(losses)
            tokens, seconds = (sum(getattr(step, name) for step in self._pending) for name in ("tokens", "seconds"))
            found["train/tokens_per_second"] = tokens / seconds
        self._pending = []
        found |= self._engine.measured()
        return [Measurement(name, value, self.step) for name, value in found.items()]

    def _pending_losses(self) -> list[float]:
        """The losses since the last measurement, which are finite, or FloatingPointError.

        To read them is to wait for the device, which counts as time of the last step.
        """
        if not self._pending:
            return []
        started = time.perf_counter()
        losses = torch.stack([torch.as_tensor(step.loss, device="cpu") for step in self._pending]).tolist()
        self._pending = [step._replace(loss=loss) for step, loss in zip(self._pending, losses, strict=True)]
        for step in self._pending:
            _check_finite("training", float(step.loss), step.number, step.language, step.learning_rate)
        last = self._pending[-1]
        self._pending[-1] = last._replace(seconds=last.seconds + time.perf_counter() - started)
        return losses

    def _measure_validation(self) -> list[Measurement]:
        self._pending_losses()  # so that an error names the step where it began
        for language, batches in self._valid.items():
            mean = self._engine.evaluate(batches)
            _check_finite("validation", mean, self.step, language, self._engine.learning_rate(self.step))
            self._perplexity[language] = math.exp(min(mean, 700.0))  # beyond, float64 overflows
        return [Measurement(f"valid/perplexity/{name}", value, self.step) for name, value in self._perplexity.items()]

    def _open(self, prepared: Prepared, split: str, language: str) -> MaskedText:
        batch_size = self.job.pretrain.batch_size
        if split == "meta" and self._meta is not None:
            batch_size = batch_size if self._meta.batch_size is None else self._meta.batch_size
        if split == "train" and self._surgery:
            batch_size //= len(self.job.languages)
        seed = _VALIDATION_SEED if split == "valid" else self.job.seed
        return MaskedText(prepared, split, language, self.job.pretrain, batch_size=batch_size, seed=seed)

    def _next_batch(self, split: str, language: str) -> Batch:
        name = f"{split}/{language}"
        self._drawn[name] += 1
        return self._text[name].batch(self._drawn[name] - 1)


def _check_finite(kind: str, loss: float, step: int, language: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(_diverged(f"the {kind} loss is {loss}", step, language, learning_rate))


def _diverged(what: str, step: int, language: str, learning_rate: float) -> str:
    return (
        f"{what} at step {step} (language {language}, learning rate {learning_rate:g}); "
        "a lower pretrain.learning_rate, or a pretrain.clip_norm, may help"
    )


def _on_cpu(value: Any) -> Any:
    """A copy in which tensors are on the CPU: a GPU need not have room for two."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, _on_cpu(inside)) for key, inside in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(inside) for inside in value)
    return value
