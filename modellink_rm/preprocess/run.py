"""Preprocessing as one call, for the command and for Python."""

from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.dataset.manifest import Manifest
from modellink_rm.preprocess.dataset_info import with_dataset_info
from modellink_rm.preprocess.pipeline import Shard, preprocess


def preprocess_data(config: PreprocessConfig, tokenizer: TokenizerConfig) -> Manifest | Shard:
    """The manifest of the data set that these flags of preprocess_data.py write.

    With num_shards: the shard, which `preprocess_data.py --merge-shards` makes the data set of.

    Raises:
        UserError: the flags or the input cannot work, or nothing was kept.
        OSError: a file cannot be read or written.
    """
    return preprocess(with_dataset_info(config), tokenizer)
