"""The stages of `make gpu-check`, in order of worth: what to run, and for how long at most."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """One process.

    Attributes:
        name: in results and on the command line.
        seconds: after which it is ended; what it has found until then is kept.
        tests: what pytest runs, as arguments; none for a stage that measures, whose function in
            the modules that stage.py names has the same name.
    """

    name: str
    seconds: int
    tests: tuple[str, ...] = ()


_BACKENDS, _TRAINING = "tests/gpu/test_backends.py", "tests/gpu/test_training.py"
STAGES = (
    Stage("host", 45),
    Stage("torch_profile", 90),
    Stage("answers", 75, ("tests/gpu/test_cuda.py", _BACKENDS, "-k", "not compile and not engine")),
    Stage("planar_b1", 90),
    Stage("readers", 90),
    Stage("training_speed", 90),
    Stage("training_waits", 90),
    Stage("planar", 90),
    Stage("aot_b1", 90),
    Stage("nvdec", 60, ("tests/gpu/test_nvdec.py",)),
    Stage("training", 90, (_TRAINING, "-k", "not compiled")),
    Stage("artifacts", 90),
    Stage("kinetics_onnx", 90),
    Stage("onnx_profile", 90),
    Stage("serving_nvdec", 90),
    Stage("serving", 75),
    Stage("kinetics", 90),
    Stage("b1", 90),
    Stage("torch_batch_32_b1", 90),
    Stage("aot", 90),
    Stage("torch_batch_32", 90),
    Stage("artifacts_planar", 90),
    Stage("planar_onnx", 90),
    Stage("compiled", 90),
    Stage("aot_autotuned", 90),
    Stage("planar_precisions", 90),
    Stage("onnx_channels_last", 90),
    Stage("onnx_batch_32", 90),
    Stage("determinism", 60),
    Stage("memory", 60, ("tests/gpu/test_memory.py",)),
    Stage("streams", 60),
    Stage("stream_answers", 60, ("tests/gpu/test_streams.py",)),
    Stage("live", 45, ("tests/gpu/test_live.py",)),
    Stage("engines", 75, (_BACKENDS, "-k", "engine")),
    Stage("compile", 90, (_BACKENDS, _TRAINING, "-k", "compile and not engine")),
    Stage("training_compiled", 90),
)
# In a rehearsal half types are other arguments of the same lines.
REHEARSED_TESTS = "not fp16 and not bf16"
SECONDS_IN_ALL = 470
# Of the limits: the processors of the machine that is rehearsed on may be few, slow and busy.
REHEARSAL_FACTOR = 20


def by_name(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)
