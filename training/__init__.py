"""Makes a Fashion-MNIST classifier: train it, judge it, try it on files."""
