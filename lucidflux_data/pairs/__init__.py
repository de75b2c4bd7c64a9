"""Pairs of HQ and LQ: made, stored, found again, replayed, and given on line to a trainer."""
