"""A store and a model of it, for tests/property/test_store_machine.py.

operations    what can be asked, at random
programs      who asks a store: this process, or another that lives as long as the tests do
model         what the answer should be
making        the part of the model in which records come about
tables        the dicts that it consists of
"""
