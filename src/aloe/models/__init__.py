"""B-cos Vision Transformers as transformers models, their teachers, and the conversion between them."""
