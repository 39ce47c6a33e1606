"""A user's module is checked before anything is computed: each mistake is named, with its line."""

import itertools
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.steps import assert_equal, place_inputs

from trainer.config import user_module
from trainer.data.dataset import Superbatch
from trainer.job.errors import ConfigError
from trainer.optimizers.optimizer import Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.tasks import checks, module
from trainer.tasks.task import Keys, batch_gradients, keys_of

EXAMPLE = {
    "image": jax.ShapeDtypeStruct((3, 4), np.uint8),
    "label": jax.ShapeDtypeStruct((), np.uint8),
}
IMPORTS = "import jax\nimport jax.numpy as jnp\nimport numpy as np\n"
INIT = """
def init(key, example, options):
    size = example["image"].size
    return {"w": 0.1 * jax.random.normal(key, (size, 3)), "b": jnp.zeros(3)}
"""
FWD = """
def fwd(example, weights, options):
    x = example["image"].astype(jnp.float32).reshape(-1)
    return x @ weights["w"] + weights["b"]
"""
GOOD = IMPORTS + INIT + FWD
HOOKS = """
def gradients(examples, weights, options, loss):
    x = examples["image"].astype(jnp.float32).reshape(len(examples["image"]), -1)
    outputs = x @ weights["w"] + weights["b"][None]
    _, back, rows = jax.vjp(loss, outputs, has_aux=True)
    (errors,) = back(jnp.float32(1))
    bounds = (1 + jnp.abs(x).sum(axis=1)) * jnp.abs(errors).sum(axis=1)
    return {"w": x.T @ errors, "b": errors.sum(axis=0)}, bounds, rows

def to_layout(weights):
    return {**weights, "w": weights["w"].T}

def from_layout(weights):
    return {**weights, "w": weights["w"].T}
"""
X = "    return x @"  # the line before which a mistake is put
numbers = itertools.count()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make the task of a text, in a file of its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(text, options=None, example=EXAMPLE):
        path = tmp_path / f"mine{next(numbers)}.py"
        path.write_text(text)
        own = user_module.load("model.module", str(path))
        return module.make(own, {} if options is None else options, example)

    return make


def loss(body):
    return GOOD + "\ndef loss(output, example):\n    " + body + "\n"


def metrics(body):
    return GOOD + "\ndef metrics(output, example):\n    " + body + "\n"


def augment(body):
    return GOOD + "\ndef augment(example, options, key):\n    " + body + "\n"


MISTAKES = {
    "no init": (IMPORTS + FWD, ["mine.py has no function init(key, example, options)"]),
    "no fwd": (IMPORTS + INIT, ["mine.py has no function fwd(example, weights, options), or"]),
    "other parameters": (
        GOOD.replace("fwd(example, weights, options)", "fwd(weights, example)"),
        ["mine.py:9: fwd takes (weights, example): let it take (example, weights, options)"],
    ),
    "other order": (
        GOOD.replace("fwd(example, weights, options)", "fwd(weights, example, options)"),
        ["mine.py, fwd(): KeyError: 'image'", "mine.py:10: x = example", "image uint8[3, 4]"],
    ),
    "a default": (
        GOOD.replace("weights, options)", "weights, options, train=True)"),
        ["mine.py:9: fwd takes (example, weights, options, train)"],
    ),
    "a batch": (
        GOOD.replace("reshape(-1)", "reshape(len(example['image']), -1)"),
        ["mine.py, fwd(): TypeError", "(4,) and (12,)", "mine.py:11: return x @", "ONE example"],
    ),
    "a batch of one": (
        GOOD.replace("reshape(-1)", "reshape(1, 12)").replace('+ weights["b"]', ""),
        ["mine.py:9: fwd returned shapes [[1, 3]]", "logits (classes,)", "ONE example"],
    ),
    "another shape": (
        GOOD.replace("(size, 3)", "(10, 3)"),
        ["(12,) and (10,)", "mine.py:11: return x @", "w float32[10, 3]"],
    ),
    "numpy on a traced array": (
        GOOD.replace(X, f"    x = np.asarray(x)\n{X}"),
        ["fwd(): TracerArrayConversionError", "mine.py:11: x = np.asarray(x)"],
    ),
    "if on a traced value": (
        GOOD.replace(X, f"    if x.sum() > 0:\n        x = -x\n{X}"),
        ["fwd(): TracerBoolConversionError", "mine.py:11: if x.sum() > 0:"],
    ),
    "no such field": (
        GOOD.replace('["image"].astype', '["imgae"].astype'),
        ["fwd(): KeyError: 'imgae'", "mine.py:10: x = ", "image uint8[3, 4], label uint8[]"],
    ),
    "no return": (
        GOOD.replace(X, "    x @"),
        ["mine.py:9: fwd returned nothing: return an array, or a dict of arrays"],
    ),
    "a text": (GOOD.replace(X, f'    return "cat"\n{X}'), ["fwd(): TypeError", "'cat'"]),
    "key needed outside training": (
        GOOD.replace("weights, options)", "weights, options, key)").replace(
            X, f"    x = x * jax.random.normal(key, x.shape)\n{X}"
        ),
        ["mine.py:11: x = x * jax.random.normal", "and key=None"],
    ),
    "mistake with the key": (
        GOOD.replace("weights, options)", "weights, options, key)").replace(
            X, f"    if key is not None:\n        x = x * jax.random.normal(key, (5,))\n{X}"
        ),
        ["mine.py:12: x = x * jax.random.normal", "(12,), (5,)"],
    ),
    "an option without Options": (
        GOOD.replace("jnp.zeros(3)", "jnp.zeros(options.classes)"),
        ["mine.py, init(): AttributeError: 'dict' object has no attribute 'classes'", "mine.py:7:"],
    ),
    "integer weights": (
        GOOD.replace("jnp.zeros(3)", "jnp.zeros(3, jnp.int32)"),
        ["mine.py:5: init returned weights of dtype int32: b: make them float32"],
    ),
    "an empty weight": (
        GOOD.replace("jnp.zeros(3)}", "jnp.zeros(3), 'c': jnp.zeros((0, 2))}"),
        ["mine.py:5: init returned an empty array: c: leave it out"],
    ),
    "no weights": (IMPORTS + INIT.replace('{"w"', '{} and {"w"') + FWD, ["init returned no array"]),
    "init without return": (
        IMPORTS + INIT.replace("return {", "{") + FWD,
        ["mine.py:5: init returned no arrays: return the weights"],
    ),
    "two weights of one path": (
        IMPORTS + INIT.replace('"b": ', '"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1), "b": ') + FWD,
        ["mine.py:5: init returned two weights of one path"],
    ),
    "an augmented example without a field": (
        augment("return {'image': example['image']}"),
        ["mine.py:13: augment returned {'image': 'uint8[3, 4]'} for {'image'", "return all fields"],
    ),
    "an augmented example of another dtype": (
        augment("return {**example, 'image': example['image'] / 255}"),
        ["mine.py:13: augment returned {'image': 'float32[3, 4]'", "for {'image': 'uint8[3, 4]'"],
    ),
    "a mistake in augment": (
        augment("return {**example, 'image': example['image'][options.no]}"),
        ["mine.py, augment(): AttributeError: 'dict' object has no attribute 'no'", "mine.py:14:"],
    ),
    "loss of rank 1": (loss("return output"), ["mine.py:13: loss returned float32[3]: return one"]),
    "integer loss": (loss("return jnp.argmax(output)"), ["mine.py:13: loss returned int32[]"]),
    "loss without return": (loss("jnp.sum(output)"), ["mine.py:13: loss returned NoneType"]),
    "exception in loss": (
        loss("raise ValueError('my own')"),
        ["mine.py, loss(): ValueError: my own", "mine.py:14: raise ValueError('my own')"],
    ),
    "loss of one parameter": (
        loss("return output").replace("loss(output, example)", "loss(output)"),
        ["mine.py:13: loss takes (output): let it take (output, example)"],
    ),
    "loss without a gradient": (
        loss("return jax.lax.while_loop(lambda x: x[0] < 3, lambda x: x + 1, output)[0]"),
        ["mine.py, loss(): ValueError: Reverse-mode differentiation does not work"],
    ),
    "loss is no function": (GOOD + "\nloss = 3\n", ["has no function loss(output, example)"]),
    "metric of rank 1": (
        metrics("return {'top': output}"),
        ["mine.py:13: metrics returned float32[3] for 'top': return one float"],
    ),
    "metric of booleans": (
        metrics("return {'hit': output[0] > 0}"),
        ["metrics returned bool[] for 'hit': return one float"],
    ),
    "metrics no dict": (
        metrics("return output[0]"),
        ["mine.py:13: metrics returned float32[]: return a dict"],
    ),
    "metric with a dash": (metrics("return {'top-5': output[0]}"), ["a metric named 'top-5'"]),
    "gradients in another form": (
        GOOD + HOOKS.replace("x.T @ errors", "errors.T @ x"),
        ["mine.py:13: gradients returned", "'gradients/w': 'float32[3, 12]'", "float32[12, 3]"],
    ),
    "gradients alone": (
        GOOD + HOOKS.replace(", bounds, rows", ""),
        ["mine.py, gradients(): ValueError: not enough values to unpack (expected 3, got 2)"],
    ),
    "bounds of another length": (
        GOOD + HOOKS.replace(", bounds, rows", ", bounds[1:], rows"),
        ["mine.py, gradients(): ValueError", "float32[2]", "float32[3]"],
    ),
    "gradients without a key": (
        GOOD.replace("weights, options)", "weights, options, key)") + HOOKS,
        ["mine.py:13: gradients gets no random keys, but fwd takes one: leave one of them out"],
    ),
    "a layout without a weight": (
        GOOD + HOOKS.replace('{**weights, "w"', '{"w"', 1),
        ["mine.py:21: to_layout returned {'w': 'float32[36]'} for {'b': 'float32[3]', 'w'"],
    ),
    "a layout that does not come back": (
        GOOD + HOOKS.removesuffix('{**weights, "w": weights["w"].T}\n') + "weights\n",
        ["mine.py:24: from_layout returned", "'w': 'float32[3, 12]'} for", "undo what to_layout"],
    ),
    "a layout without the way back": (
        GOOD + HOOKS.partition("def from_layout")[0],
        ["mine.py has no function from_layout(weights)"],
    ),
    "outputs no dict": (
        GOOD + "\ndef outputs(output):\n    return output\n",
        ["mine.py:13: outputs has to return a dict of arrays"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(made, mistake):
    text, words = MISTAKES[mistake]
    with pytest.raises(ConfigError) as raised:
        made(text)
    assert raised.value.exit_code == 78
    message = str(raised.value).replace(f"mine{next(numbers) - 1}.py", "mine.py")
    assert message.startswith("model.module")
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert "site-packages" not in message  # the user's lines alone
    assert len(message.splitlines()) <= 5


@pytest.mark.parametrize("name", sorted(checks.RESERVED))
def test_a_metric_has_no_name_that_a_logged_point_has_anyway(made, name):
    with pytest.raises(ConfigError, match=f"metrics has a metric named '{name}': use another"):
        made(metrics(f"return {{'{name}': output[0]}}"))


@pytest.mark.parametrize(
    "label", [None, ((), np.float32), ((2,), np.uint8)], ids=["none", "float", "rank 1"]
)
def test_without_a_loss_there_has_to_be_a_label(made, label):
    example = {"image": EXAMPLE["image"]}
    if label is not None:
        example["label"] = jax.ShapeDtypeStruct(*label)
    with pytest.raises(ConfigError, match=r"has no loss.*a field `label`, an integer"):
        made(GOOD, example=example)


def test_a_classifier_needs_no_loss(made):
    task = made(GOOD)
    assert task.metric_names == ("accuracy",)
    assert task.inputs == ("image",)
    assert not task.is_random
    weights = task.init(jax.random.PRNGKey(0))
    example = {"image": jnp.ones((3, 4), jnp.uint8), "label": jnp.uint8(2)}
    logits = task.fwd(example, weights, None)
    assert float(task.loss(logits, example)) == pytest.approx(
        float(jax.nn.logsumexp(logits) - logits[2]), rel=1e-6
    )
    hit = float(np.argmax(logits) == 2)
    assert float(task.metrics(logits, example)["accuracy"]) == hit
    assert set(task.outputs(logits)) == {"logits", "probabilities"}
    assert int(task.prediction(logits)["class"]) == np.argmax(logits)


def test_any_task_has_its_own_loss_metrics_and_inputs(made):
    task = made(
        IMPORTS
        + textwrap.dedent("""
        def init(key, example, options):
            return [{"a": jnp.ones(example["x"].shape)}, jnp.zeros(())]

        def fwd(example, weights, options):
            unused = jnp.sum(example["y"])
            return {"mean": jnp.dot(example["x"], weights[0]["a"]) + weights[1]}

        def loss(output, example):
            return jnp.square(output["mean"] - example["y"])

        def metrics(output, example):
            return {"error": jnp.abs(output["mean"] - example["y"])}
        """),
        example={
            "y": jax.ShapeDtypeStruct((), np.float32),
            "x": jax.ShapeDtypeStruct((5,), np.float32),
        },
    )
    assert task.metric_names == ("error",)
    assert task.inputs == ("x",)
    assert task.prediction is None
    example = {"x": jnp.ones(5), "y": jnp.float32(2)}
    output = task.fwd(example, task.init(jax.random.PRNGKey(0)), None)
    assert {name: float(value) for name, value in task.outputs(output).items()} == {"mean": 5}
    assert float(task.loss(output, example)) == 9
    assert float(task.metrics(output, example)["error"]) == 3


def test_the_hooks_change_no_result(made):
    """Neither in a step nor in several; K steps in one dispatch are K dispatches of one."""
    plain, hooked = made(GOOD), made(GOOD + HOOKS)
    images = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    examples = {"image": images, "label": np.array([0, 1, 2, 0], np.uint8)}
    batch = Superbatch(examples, np.array([1, 1, 1, 0], np.uint8))
    weights = jax.device_get(plain.init(jax.random.PRNGKey(0)))
    wanted, result = (batch_gradients(task, weights, batch) for task in (plain, hooked))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        (result.gradients, result.sums),
        (wanted.gradients, wanted.sums),
    )
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(result.gradients))
    assert largest <= float(result.bound) < np.inf

    def train(task, k):
        mesh, update = meshes.make_mesh(1), Update(stochastic_gradient_descent(0.9, True))
        train_step = step.make_train_step(task, update, mesh, "shard_map")
        state = step.init_state(task, update, jax.random.PRNGKey(0), mesh)
        several = jax.tree.map(lambda x: np.stack([x] * 3), batch)
        for first in range(0, 3, k):
            lrs = np.full(3, 1e-4, np.float32)
            state, _ = train_step(state, place_inputs(mesh, several, range(first, first + k), lrs))
        return jax.device_get(state)

    assert_equal(train(hooked, 1), train(hooked, 3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        train(hooked, 3),
        train(plain, 3),
    )


def test_a_key_depends_on_the_seed_the_step_and_the_example_alone(made):
    task = made(
        GOOD.replace("weights, options)", "weights, options, key)").replace(
            X, f"    if key is not None:\n        x = x * jax.random.normal(key, (12,))\n{X}"
        )
    )
    assert task.is_random
    examples = {"image": np.full((4, 3, 4), 9, np.uint8), "label": np.zeros(4, np.uint8)}
    batch = Superbatch(examples, np.ones(4, np.uint8), np.array([7, 2, 9, 4], np.int32))

    def keys(batch, seed=0, step=3):
        return np.asarray(keys_of(task, jnp.uint32(seed), jnp.int32(step), batch).fwd)

    turned = batch._replace(index=batch.index[::-1])
    np.testing.assert_array_equal(keys(batch), keys(turned)[::-1])
    assert len(np.unique(keys(batch), axis=0)) == 4
    assert (keys(batch) != keys(batch, seed=1)).any()
    assert (keys(batch) != keys(batch, step=4)).any()
    # Examples that are alike get masks of their own; a padded one counts as none.
    weights = task.init(jax.random.PRNGKey(0))
    parts = [
        batch_gradients(task, weights, batch._replace(mask=mask), Keys(keys(batch))).sums
        for mask in np.eye(4, dtype=np.uint8)
    ]
    losses = [float(part[0]) for part in parts]
    assert len(set(losses)) > 1
    assert [float(part[-1]) for part in parts] == [1] * 4
    whole = batch_gradients(task, weights, batch, Keys(keys(batch))).sums
    assert float(whole[0]) == pytest.approx(sum(losses), rel=1e-5)
