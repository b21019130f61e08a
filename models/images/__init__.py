"""Images of ten classes, 3 x 32 x 32, to train and to test deep classifiers with.

=====================  ======================================================================
`dataset`              labelled images, and what a network is given of them
`synthetic`            seeded drawings of ten shapes
`cifar`                CIFAR-10 from the files it is published as
=====================  ======================================================================

None needs torch; `models.train_images` trains with these.
"""
