"""Example networks: definitions, training, ONNX export, and the shipped ONNX files.

=====================  ======================================================================
`digits`               data, command line and accuracy of the two digit classifiers (no torch)
`digits_networks`      `DigitsMLP` and `DigitsCNN` in torch, and their training
`cryptofacenet`        CryptoFaceNet in torch for any multiple of 32, exported with random weights
`resnet`, `vgg`        ResNet-20 to ResNet-110 and VGG-11 for images of 3 x 32 x 32
`lenet`                LeNet-5 for comparison, with random weights
`train_images`         training of ResNets and VGG-11 on CIFAR-10 or synthetic `images`
`train_faces`          training of CryptoFaceNet, with `faces`
`training`, `peaks`    what both share: runs that can be resumed, a penalty on largest values
`pickles`              pickles of data, read without running what they say
`activations`          what stands for relu in these
`demo`                 first success: a digit classifier compiled, run encrypted, compared
`torch_export`         what the exporting modules share: ONNX export, largest absolute value,
                       an `export` command
=====================  ======================================================================

The shipped files are `digits_mlp.onnx`, `digits_cnn.onnx`, `digits_test.npz` and
`digits_calibration.npz`; `budgets.toml` holds what each model's plan may cost.
Importing this package or `models.digits` does not import torch.
"""
