"""Server: compiles the model to the plan that scores pairs of faces."""

from __future__ import annotations

from stages import Stage, run_stage


def preprocess_model(stage: Stage) -> None:
    """Writes the plan."""
    stage.compile_plan()


if __name__ == "__main__":
    run_stage(preprocess_model, __doc__, compiles=True)
