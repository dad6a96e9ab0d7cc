"""The files in a model folder: which are the model's, what they hold, whether they are whole."""
