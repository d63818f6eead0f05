"""A light fine-tune before a model is asked: what it can do once it knows the form of the question.

recipe.py   how it is trained, as data       lessons.py   what on, and proof that it is not what is asked
training.py   the model fine-tuned and put back       probing.py   before, after, seed by seed: the path on one page
"""

from .files import files_hash, files_of
from .lessons import check_disjoint, lessons
from .probing import sft_probe
from .recipe import RECIPES, Recipe, RecipeError, read_recipe
from .training import FinetuneError, Trained, finetuned

__all__ = [
    "RECIPES",
    "FinetuneError",
    "Recipe",
    "RecipeError",
    "Trained",
    "check_disjoint",
    "files_hash",
    "files_of",
    "finetuned",
    "lessons",
    "read_recipe",
    "sft_probe",
]
