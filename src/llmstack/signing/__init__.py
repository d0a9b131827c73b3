"""Signatures of images and of the files in them, and the trust file that they are checked against."""
