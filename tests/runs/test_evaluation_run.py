"""What an evaluation says about its configuration."""

import logging

import pytest
from helpers import small_networks as small

from stm.config.memory_policies import parse_policy
from stm.memory import published_policy
from stm.runs.evaluation_run import log_authors_policy


@pytest.mark.parametrize("name", ["mask_propagation", "stcn", "xmem"])
def test_another_policy_than_the_authors_is_named(name, caplog):
    network = small.network()
    network.policy = published_policy(name)
    with caplog.at_level(logging.INFO):
        log_authors_policy(network, parse_policy(name))
        assert not caplog.messages
        log_authors_policy(network, parse_policy("every_5"))
    (message,) = caplog.messages
    assert f"memory={name}" in message
