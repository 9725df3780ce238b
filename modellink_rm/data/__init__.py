"""From records to packed batches: handlers, templates, tokenizers, files, data sets."""
