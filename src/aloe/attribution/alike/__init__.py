"""Why two images are alike: the cosine of their features split exactly into what regions, patches and tokens contribute."""
