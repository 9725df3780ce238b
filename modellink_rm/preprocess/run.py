"""Preprocessing as one call, for the command and for Python."""

from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.manifest import Manifest
from modellink_rm.preprocess.dataset_info import with_dataset_info
from modellink_rm.preprocess.pipeline import Shard, preprocess


def preprocess_data(config: PreprocessConfig, tokenizer: TokenizerConfig) -> Manifest | Shard:
    """Write the data set that the flags of preprocess_data.py describe, and return its manifest.

    With num_shards: write and return a shard; `preprocess_data.py --merge-shards` merges all of them.

    Raises:
        UserError: the flags or the input cannot work, or nothing was kept.
        OSError: a file cannot be read or written.
    """
    return preprocess(with_dataset_info(config), tokenizer)
