"""Small data sets on disk, in the forms that people have them: five classes of coloured lines."""

import io
import json
import struct

import numpy as np
from PIL import Image

NAMES = ["bag", "boot", "coat", "dress", "shirt"]


def examples(count, side=8, seed=0):
    """Return images in RGB (count, side, side, 3), with a line for their class, and labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % len(NAMES)
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30], [90, 90, 90]])
    images = draw.integers(0, 40, (count, side, side, 3))
    images[np.arange(count), labels] += colours[labels][:, None]
    return images.astype(np.uint8), labels


def grey(images):
    """Return images in grey, (N, rows, cols)."""
    return (images @ [0.5, 0.3, 0.1]).astype(np.uint8)


def png(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pictures(folder, count=60, splits=("train", "test"), side=8):
    """Write folders of classes, of every split, or without splits of the whole."""
    for seed, split in enumerate(splits or ("",)):
        images, labels = examples(count, side, seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / NAMES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    return folder


def idx(folder, count=60):
    """Write the four files of Fashion-MNIST's form, in grey, of 5 classes."""
    folder.mkdir(parents=True)
    for seed, split in enumerate(("train", "t10k")):
        images, labels = examples(count, 8, seed)
        for name, array in (
            ("images-idx3", grey(images)),
            ("labels-idx1", labels.astype(np.uint8)),
        ):
            header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
            (folder / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}


def saved(folder, splits, features, files=2):
    """Write what save_to_disk writes: split -> column -> pyarrow array, with its features."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for split, columns in splits.items():
        (folder / split).mkdir(exist_ok=True)
        table, names = pa.table(columns), []
        rows = -(-len(table) // files)
        for number in range(files):
            names.append(f"data-{number:05}-of-{files:05}.arrow")
            part = table.slice(number * rows, rows)
            with pa.ipc.new_stream(folder / split / names[-1], table.schema) as stream:
                stream.write_table(part, max_chunksize=7)
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def huggingface(folder, count=60):
    """Write a data set of pictures and labels, as data sets of the hub are."""
    import pyarrow as pa

    splits = {}
    for seed, split in enumerate(("train", "test")):
        images, labels = examples(count, 8, seed)
        files = [{"bytes": png(image), "path": None} for image in images]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        splits[split] = {"img": pa.array(files, kind), "label": pa.array(labels, pa.int64())}
    return saved(folder, splits, {"img": {"_type": "Image"}, "label": CLASS_LABEL})


def broken(path):
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[:60])


def nothing(folder):
    """Change nothing: only the options are wrong."""
