"""Blocks taken from several places: settings that go with them, scales, whether they fit."""
