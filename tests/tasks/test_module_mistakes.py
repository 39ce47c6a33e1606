"""A user's module is checked before anything is computed: each mistake is named, with its line."""

import jax
import numpy as np
import pytest
from support.user_modules import EXAMPLE, FWD, GOOD, HOOKS, IMPORTS, INIT, X

from trainer.job.errors import ConfigError
from trainer.tasks import checks


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
        ["mine.py:13: loss takes (output): let it take (output, example), or (output, "],
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
    message = str(raised.value).replace(made.name, "mine.py")
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
