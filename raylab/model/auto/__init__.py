"""raylab's encoders as transformers' classes, so that AutoModel opens a checkpoint and AutoTokenizer its tokenizer.

`import raylab` makes them known to transformers; nothing here is imported before a program imports transformers.
"""
