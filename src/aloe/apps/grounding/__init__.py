"""Token grounding of vision-language models: AttnLRP through the language model joined to the encoder's own W(x)x."""
