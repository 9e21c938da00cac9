"""Optimizer steps: a batch in micro-batches, its loss summed, faults kept from the weights."""

import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.graphs import GraphRunner
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.asr.model.windows import Window
from kmed_bench.config import TrainConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import replacing
from kmed_bench.training.batches import Batch, Example, n_learned
from kmed_bench.training.parallel import Parallel
from kmed_bench.training.step_results import MakeBatch, Sums, TakenStep, read_results

log = logging.getLogger(__name__)

FAULTY_BATCH_NAME = "faulty-batch.pt"
# fp16's loss scale falls below this only if every step overflows: then the model is at fault, not the scale.
_SMALLEST_SCALE = 1.0

# A GPU works on steps that were launched before; reading a result makes it wait until the next launch. A faulty step
# never reaches the weights, so that it may be named some steps later.
_GPU_READ_EVERY = 50


class Stepper:
    """The optimizer steps of a training; on one GPU, each is a CUDA graph (`asr.model.graphs`).

    Parameters
    ----------
    network : torch.nn.Module
        A `LossNetwork`, wrapped by ``parallel`` where several processes train.
    folder : Path, optional
        Where a faulty batch is saved for inspection; it is speech, so it is never logged.
    read_every : int, optional
        Steps between two calls of ``collect`` by the caller; None: 1 on a CPU, 50 on a GPU.

    Attributes
    ----------
    micro_batches : int
        Number of micro-batches in which a process computes its share of a batch.
    collected : list of (Sums, float)
        This process's sums and the gradient's norm of each step that the last ``collect`` read.
    """

    def __init__(
        self,
        model: Whisper,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        precision: Precision,
        parallel: Parallel,
        *,
        folder: Path | None = None,
        read_every: int | None = None,
    ) -> None:
        self.model, self.network, self.optimizer, self.config = model, network, optimizer, config
        self.parallel, self.folder = parallel, folder
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=precision == "fp16")
        self.micro_batches = config.micro_batches
        # Processes exchange gradients while they compute them, which NCCL's own stream does; it is not recorded.
        self.graphs = GraphRunner(model.device, enabled=None if parallel.world == 1 else False)
        self.read_every = read_every or (1 if model.device.type == "cpu" else _GPU_READ_EVERY)
        self._tokenizer = korean_tokenizer()
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._waiting: list[TakenStep] = []
        self.collected: list[tuple[Sums, float]] = []
        self._weight = torch.zeros((), device=model.device)
        self._rate = torch.zeros((), device=model.device)
        self._set_groups()

    @property
    def n_waiting(self) -> int:
        """Number of steps whose results were not collected yet."""
        return len(self._waiting)

    @property
    def pad_to(self) -> int | None:
        """Number of clips that a micro-batch is padded to where steps are CUDA graphs, so that there are few shapes."""
        return math.ceil(self.config.batch_size / self.micro_batches) if self.graphs.enabled else None

    def load_optimizer(self, state: dict[str, object]) -> None:
        """Load the optimizer's state, which may come from another device."""
        self.optimizer.load_state_dict(state)
        self._set_groups()
        self.graphs.forget()  # its tensors are new ones

    @property
    def _on_device(self) -> bool:
        """Whether the optimizer's steps and rate are tensors of the device: a graph would repeat a number."""
        return self.model.device.type != "cpu" or self.graphs.enabled

    def _set_groups(self) -> None:
        for group in self.optimizer.param_groups:
            group["capturable"] = self._on_device
            if self._on_device:
                group["lr"] = self._rate

    def take(self, examples: Sequence[Example], make: MakeBatch, *, lr: float, where: str) -> None:
        """Take one step on a batch; its results stay on the device until ``collect``.

        Parameters
        ----------
        make : callable
            Returns some of the examples as a `Batch`, in the window of all of them.
        where : str
            Name of the step in errors.

        Raises
        ------
        KmedError
            When memory runs out.
        """
        if not self._on_device:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        self._rate.fill_(lr)
        # A process that has no clip of a last, short batch computes another's, without weight: the others wait for its
        # gradient.
        share = self.parallel.share(examples)
        # Gradients are averaged over processes; the weight makes that the mean over all tokens.
        n_tokens = sum(n_learned(e, self._tokenizer) for e in examples)
        self._weight.fill_(float(self.parallel.world) / n_tokens if share else 0.0)
        while True:
            parts = list(chunks(share or list(examples[:1]), math.ceil(max(len(share), 1) / self.micro_batches)))
            try:
                values, *best = self._launch([make(part) for part in parts])
                break
            except (RuntimeError, MemoryError) as error:
                self._make_room(error, examples, where)
        # A graph writes its next results to the same place.
        kept = [tokens.clone() for tokens in best]
        self._waiting.append(TakenStep(examples, make, where, parts if share else [], values.clone(), kept))

    def _launch(self, batches: Sequence[Batch]) -> tuple[torch.Tensor, ...]:
        """Compute a step on the device; return the losses of all micro-batches and the norm, and each one's tokens."""
        tensors = [tensor for batch in batches for tensor in batch.tensors()]
        window, encoded = batches[0].window, isinstance(batches[0].audio, EncoderOutput)
        key = (window, encoded, tuple(tensor.shape for tensor in tensors))
        compute = functools.partial(self._compute, window, encoded)
        return self.graphs.run(key, compute, *tensors, rehearse=functools.partial(compute, update=False))

    def _compute(
        self, window: Window, encoded: bool, *tensors: torch.Tensor, update: bool = True
    ) -> tuple[torch.Tensor, ...]:
        """Take a step on tensors of the device, without reading from it; or only compute it."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(chunks(tensors, 4))
        losses, best = [], []
        for i, (features, *labels) in enumerate(parts):
            audio = EncoderOutput(features, window.log_counts(features.device)) if encoded else features
            with self.parallel.synchronized(self.network, i + 1 == len(parts)):
                loss, likely = self.network(audio, *labels, window)
                self.scaler.scale(loss * self._weight).backward()
            losses.append(loss.detach())
            best.append(likely)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        values = torch.stack([*losses, norm])
        if update:
            self._update(values)
        else:
            self._hold()
        return values, *best

    def _clip(self) -> torch.Tensor:
        """Limit the gradient's norm if the settings ask for it; return the norm from before."""
        norm = total_norm([p.grad for p in self._trained if p.grad is not None])
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.config.grad_clip, norm)
        return norm

    def _update(self, values: torch.Tensor) -> None:
        """Update the weights, unless a value is not finite; with fp16, unless a scaled gradient is not."""
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self._step_unless((~values.isfinite().all()).float())

    def _hold(self) -> None:
        """Do what `_update` does, and leave weights and state as they are."""
        self._step_unless(torch.ones((), device=self.model.device))
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())  # forgets this gradient, keeps the scale

    def _step_unless(self, faulty: torch.Tensor) -> None:
        """Take the optimizer's step; where ``faulty`` is 1, which the device decides, a fused one changes nothing."""
        self.optimizer.grad_scale, self.optimizer.found_inf = None, faulty
        self.optimizer.step()
        del self.optimizer.grad_scale, self.optimizer.found_inf

    def collect(self) -> Sums:
        """Return this process's sums of the steps since the last call.

        Raises
        ------
        KmedError
            When the loss or its gradient was not finite in one of them.
        """
        taken, self._waiting = self._waiting, []
        self.collected = read_results(taken, self._tokenizer, self._check)
        sums = Sums()
        for own, _ in self.collected:
            sums.add(own)
        return sums

    def _check(self, step: TakenStep, loss: float, norm: float) -> None:
        if math.isfinite(loss) and (math.isfinite(norm) or self._overflows()):
            return
        share = self.parallel.share(step.examples) or list(step.examples[:1])
        kept = ""
        if self.folder is not None:
            path = self.folder / FAULTY_BATCH_NAME
            audio, inputs, *_ = step.make(share).tensors()
            names = [e.utterance_id for e in share]
            content = {"utterance_ids": names, "audio": audio, "inputs": inputs, "where": step.where}
            with replacing(path, private=True) as temporary, temporary.open("wb") as stream:
                torch.save(content, stream)
            kept = f" The batch is kept in {path}, only on this machine."
        raise KmedError(
            f"The loss is {loss} and its gradient's norm {norm} at {step.where} (utterances "
            f"{', '.join(e.utterance_id for e in share)}). Lower train.lr (now {self.config.lr}), set "
            f"train.grad_clip=1.0 or train.precision=fp32, and check these recordings.{kept}"
        )

    def _overflows(self) -> bool:
        """Return whether a gradient that is not finite is due to fp16's scale: its step is skipped, the scale lowered.

        Reads the scale, so it is asked only then.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() >= _SMALLEST_SCALE

    def _make_room(self, error: Exception, examples: Sequence[Example], where: str) -> None:
        """Double the micro-batches if memory ran out and the settings allow it; raise otherwise."""
        if not _is_out_of_memory(error):
            raise error
        share = len(self.parallel.share(examples))
        single = self.parallel.world == 1  # other processes would be in the middle of an exchange with this one
        if single and self.config.out_of_memory == "halve" and self.micro_batches < share:
            self.micro_batches *= 2
            self.optimizer.zero_grad(set_to_none=True)
            self.graphs.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                f"Out of memory at {where}: each batch is computed in {self.micro_batches} pieces from here on."
            )
            return
        more = f"train.micro_batches={self.micro_batches * 2} (the batch of {self.config.batch_size} stays), "
        smaller = more if self.micro_batches < share else ""
        raise KmedError(
            f"Memory ran out at {where}, with {math.ceil(share / self.micro_batches)} clips at once. Set {smaller}"
            "train.gradient_checkpointing=true, train.audio_context=dynamic, train.lora_rank=8 or a smaller size"
            f"{', or train.out_of_memory=halve' if smaller and single else ''}."
        ) from None


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the Euclidean norm of all gradients together."""
    if gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    # On the CPU torch's norm reads memory at half the speed of a dot product, which is noticeable in short steps.
    return torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no error type for it, and oneDNN only reports that it can't create a kernel.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "could not create a primitive"))
