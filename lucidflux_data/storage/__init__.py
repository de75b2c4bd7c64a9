"""Folders on a local disk or an object store, where every file is published whole."""
