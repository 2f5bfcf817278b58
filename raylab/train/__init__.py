"""Pretraining and finetuning loops, without Ray and without MLflow."""
