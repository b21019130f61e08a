"""Images of ten classes, 3 x 32 x 32, to train and to test deep classifiers with.

=====================  ======================================================================
`dataset`              labelled images, and what a network is given of them
`synthetic`            seeded drawings of ten shapes
`cifar`                CIFAR-10 from the files it is published as
=====================  ======================================================================

None needs torch; `models.train_images` trains with these.

`resnet20_synthetic.onnx` (input `image`, 1 x 3 x 32 x 32 in [-1, 1]; output `logits`) was trained
in 9 minutes on one core by

    python -m models.train_images --data synthetic --network resnet20 --images 8000 --epochs 8
        --out DIR

and knows 96.4 % of the 500 test images (seed 1), 97.6 % and 97.0 % of those of seeds 3 and 5. Of
what goes into a ReLU no value is more than 5 times the root of their mean square. It knows drawings
of ten shapes: it is for tests of a trained network of this shape.
"""
