"""The part of the trainer that saves the trained model, and pushes it to the hub with its card and nothing else."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.files import atomic_path
from mixdpo.common.hub import hub_address
from mixdpo.common.settings import unknown_key
from mixdpo.training.answering_trainer import AnsweringTrainer
from mixdpo.training.model_card import CardFacts, base_of, licence_of, model_card
from mixdpo.training.run_folder import MODEL_FOLDER, logged_metrics, versions
from mixdpo.training.saving import holds_weights

_OF_CARD: Final = ("dataset_name", "language", "license", "model_name", "tags")
_NOT_PUSHED: Final = ["training_args.bin", ".*"]
"""A pickle of this machine's settings, and what other programs hide in folders."""


class PushingTrainer(AnsweringTrainer):
    """A trainer that writes the folder `model` of its run.

    Attributes:
        data_names: hub ids and files that the pairs are from, for the model's card.
    """

    data_names: Sequence[str] = ()

    def save_run_model(self) -> Path:
        """Write the model beside its place in the run and move it there, so that `model` is always a whole one.

        Raises:
            RunError: no weights were written.
        """
        folder = Path(self.args.output_dir or ".") / MODEL_FOLDER
        unfinished = folder.with_name(".model-unfinished")
        super().save_model(str(unfinished))  # without a push
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            if not holds_weights(unfinished):
                raise RunError(
                    f"{folder.parent}: the trained weights could not be gathered from the processes; they are in the "
                    "checkpoints: mixdpo merge CHECKPOINT --output FOLDER makes a model of one"
                )
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        return folder

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, and push that of the run if `push_to_hub` is on."""
        super().save_model(output_dir, _internal_call)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def create_model_card(self, *args: Any, **card: Any) -> None:
        """Write the card of the run's model to `model/README.md`.

        Args:
            *args: none but the name of the model.
            **card: `model_name`, `dataset_name`, `tags`, `license` and `language`, where they are to differ.

        Raises:
            InputError: a card has no such part.
        """
        if args:
            card["model_name"] = args[0]
        if unknown := sorted(set(card) - set(_OF_CARD)):
            raise unknown_key(unknown[0], _OF_CARD)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir or ".") / MODEL_FOLDER
            with atomic_path(folder / "README.md") as temporary:
                temporary.write_text(model_card(self._card_facts(card)), encoding="utf-8")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Save the model as the run's folder `model`, write its card, and push both and nothing else.

        Args:
            commit_message: of the commit.
            blocking: whether to wait for its end.
            token: default `hub_token`, then that of `hf auth login`.
            revision: branch; default `hub_revision`.
            private: whether a new repository is private; default `hub_private_repo`.
            **card: see `create_model_card`.

        Returns:
            The commit, or what it is the future of; None on all but the first process.

        Raises:
            InputError: the repository cannot be made.
            RunError: the push failed; the model is on this machine.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        folder = self.save_run_model()
        self.create_model_card(**card)
        if not self.is_world_process_zero():
            return None
        from huggingface_hub import HfApi

        assert self.hub_model_id is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that its progress bars stay off
                return HfApi().upload_folder(
                    repo_id=self.hub_model_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    token=token,
                    revision=revision or self.args.hub_revision,
                    run_as_future=not blocking,
                    ignore_patterns=_NOT_PUSHED,
                )
        except Exception as error:  # each of the client's libraries has its own
            raise RunError(
                f"the model is in {folder}, and pushing it to {self.hub_model_id} failed ({_first_line(error)}): push "
                f"it with `hf upload {self.hub_model_id} {folder}`"
            ) from error

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, unless it is there.

        Raises:
            InputError: it cannot be made.
        """
        try:
            super().init_hf_repo(token, private)
        except Exception as error:  # as above
            name = self.args.hub_model_id or Path(self.args.output_dir or ".").absolute().name
            raise InputError(
                f"push_to_hub: the repository {name!r} cannot be made at {hub_address()} ({_first_line(error)})",
                hint="log in with `hf auth login` and a token that may write, or leave push_to_hub out",
            ) from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push no checkpoint."""

    def _card_facts(self, card: dict[str, Any]) -> CardFacts:
        model: Any = self.accelerator.unwrap_model(self.model)
        base, args = base_of(model), self.args
        on_hub = not Path(base).is_dir()
        named = card.get("dataset_name") or list(self.data_names)
        data = [named] if isinstance(named, str) else list(named)
        tags = card.get("tags") or []
        name = card.get("model_name") or (self.hub_model_id or Path(args.output_dir or ".").absolute().name)
        return CardFacts(
            name=name.rpartition("/")[2],
            base=base if on_hub else Path(base).name,
            base_is_on_hub=on_hub,
            licence=card.get("license") or licence_of(base),
            adapters=bool(getattr(model, "peft_config", None)),
            data=[one if not Path(one).exists() else Path(one).name for one in data],
            data_on_hub=[one for one in data if one.count("/") == 1 and not Path(one).exists()],
            plan=self.plan,
            args=args,
            step_pairs=self.get_total_train_batch_size(args),
            metrics=logged_metrics(Path(args.output_dir or ".")),
            versions=versions(),
            tags=[tags] if isinstance(tags, str) else tags,
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()
