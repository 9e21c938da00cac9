"""One optimizer step: a batch in micro-batches, its loss summed, faults caught before they reach the weights."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from whisper.tokenizer import Tokenizer

from kmed_bench.asr.model.device import Precision
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.config import TrainConfig
from kmed_bench.core.batching import chunks
from kmed_bench.core.errors import KmedError
from kmed_bench.scoring.edits import token_text_cer
from kmed_bench.training.batches import IGNORED, Batch, Example, n_learned
from kmed_bench.training.parallel import Parallel

log = logging.getLogger(__name__)

FAULTY_BATCH_NAME = "faulty-batch.pt"
# fp16's loss scale falls below this only if every step overflows: then the model is at fault, not the scale.
_SMALLEST_SCALE = 1.0

MakeBatch = Callable[[Sequence[Example]], Batch]


@dataclasses.dataclass
class Sums:
    """Sums of an epoch; each rate is one division at the end."""

    loss: float = 0.0
    tokens: int = 0
    errors: int = 0
    characters: int = 0

    def add(self, other: "Sums") -> None:
        """Add another's sums to these."""
        self.loss += other.loss
        self.tokens += other.tokens
        self.errors += other.errors
        self.characters += other.characters


class Stepper:
    """The optimizer steps of a training.

    Parameters
    ----------
    network : torch.nn.Module
        A `LossNetwork`, wrapped by ``parallel`` where several processes train.
    folder : Path, optional
        Where a faulty batch is saved for inspection; it is speech, so it is never logged.

    Attributes
    ----------
    micro_batches : int
        Number of micro-batches in which a process computes its share of a batch.
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
    ) -> None:
        self.model, self.network, self.optimizer, self.config = model, network, optimizer, config
        self.parallel, self.folder = parallel, folder
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=precision == "fp16")
        self.micro_batches = config.micro_batches
        self._tokenizer = korean_tokenizer()
        self._trained = [p for p in model.parameters() if p.requires_grad]

    def take(self, examples: Sequence[Example], make: MakeBatch, *, lr: float, where: str) -> Sums:
        """Take one step on a batch and return this process's sums.

        Parameters
        ----------
        make : callable
            Returns some of the examples as a `Batch`, in the window of all of them.
        where : str
            Name of the step in errors.

        Raises
        ------
        KmedError
            When the loss or its gradient is not finite, or memory runs out.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        while True:
            try:
                sums = self._backward(examples, make)
                break
            except (RuntimeError, MemoryError) as error:
                self._make_room(error, examples, where)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        self._check(sums, norm, examples, make, where)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return sums

    def _backward(self, examples: Sequence[Example], make: MakeBatch) -> Sums:
        """Leave the gradient of the batch's mean loss on the parameters; return this process's sums."""
        self.optimizer.zero_grad(set_to_none=True)
        n_tokens = sum(n_learned(e, self._tokenizer) for e in examples)
        # A process that has no clip of a last, short batch computes another's, without weight: the others wait for its
        # gradient.
        share = self.parallel.share(examples)
        weight = float(self.parallel.world) / n_tokens if share else 0.0
        sums = Sums()
        parts = list(chunks(share or list(examples[:1]), math.ceil(max(len(share), 1) / self.micro_batches)))
        for i, part in enumerate(parts):
            batch = make(part)
            with self.parallel.synchronized(self.network, i + 1 == len(parts)):
                moved = batch.to(self.model.device)
                loss, best = self.network(moved.audio, moved.inputs, moved.targets, moved.window)
                # Gradients are averaged over processes; the weight makes that the mean over all tokens.
                self.scaler.scale(loss * weight).backward()
            if share:
                errors, characters = _teacher_forced_errors(batch, best, self._tokenizer)
                sums.add(Sums(loss.item(), int((batch.targets != IGNORED).sum()), errors, characters))
        return sums

    def _clip(self) -> float:
        """Limit the gradient's norm if the settings ask for it; return the norm from before."""
        norm = total_norm([p.grad for p in self._trained if p.grad is not None])
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.config.grad_clip, norm)
        return float(norm)

    def _check(self, sums: Sums, norm: float, examples: Sequence[Example], make: MakeBatch, where: str) -> None:
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= _SMALLEST_SCALE
        # With fp16, a step whose scaled gradient overflows is skipped and the scale lowered: that is no fault.
        if math.isfinite(sums.loss) and (math.isfinite(norm) or overflow):
            return
        share = self.parallel.share(examples) or list(examples[:1])
        kept = ""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / FAULTY_BATCH_NAME
            batch = make(share)
            audio = batch.audio.features if isinstance(batch.audio, EncoderOutput) else batch.audio
            names = [e.utterance_id for e in share]
            torch.save({"utterance_ids": names, "audio": audio, "inputs": batch.inputs, "where": where}, path)
            kept = f" The batch is kept in {path}, only on this machine."
        raise KmedError(
            f"The loss is {sums.loss} and its gradient's norm {norm} at {where} (utterances "
            f"{', '.join(e.utterance_id for e in share)}). Lower train.lr (now {self.config.lr}), set "
            f"train.grad_clip=1.0 or train.precision=fp32, and check these recordings.{kept}"
        )

    def _make_room(self, error: Exception, examples: Sequence[Example], where: str) -> None:
        """Double the micro-batches if memory ran out and the settings allow it; raise otherwise."""
        if not _is_out_of_memory(error):
            raise error
        share = len(self.parallel.share(examples))
        single = self.parallel.world == 1  # other processes would be in the middle of an exchange with this one
        if single and self.config.out_of_memory == "halve" and self.micro_batches < share:
            self.micro_batches *= 2
            self.optimizer.zero_grad(set_to_none=True)
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


def _teacher_forced_errors(batch: Batch, best: torch.Tensor, tokenizer: Tokenizer) -> tuple[int, int]:
    counts = [n_learned(example, tokenizer) for example in batch.examples]
    texts = [
        tokenizer.decode([token for token in tokens.tolist() if token < tokenizer.eot])
        for tokens in best.cpu().split(counts)
    ]
    return token_text_cer([example.text for example in batch.examples], texts)
