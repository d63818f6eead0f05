"""Scores for people: pictures (figures) and the terminal. Everything here takes a HeadScores and changes nothing."""
