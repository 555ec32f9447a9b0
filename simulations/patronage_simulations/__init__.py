"""Whole consortia on one machine, with the real code of both sides."""
