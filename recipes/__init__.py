"""Recipes built on top of the library: synthetic worlds and the models trained on them."""
