"""Suites of benchmark images: data files, archives, and suites that are made here."""
