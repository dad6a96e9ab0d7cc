"""Racing: a candidate is asked only as many examples as decide where it stands.

A *cohort* is the P candidates that one update of the optimizer learns from. All of them are asked
the same few examples; the better half is asked as many again, and so on. A *rung* is one such
round, a *cell* the score of one recipe on one example. Every cohort has fresh examples, dealt from
a *deck* that goes through all search examples before it deals one again.

Successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943; Li et al. 2018, arXiv:1603.06560.
Races inside CMA-ES: Heidrich-Meisner & Igel 2009, doi:10.1145/1553374.1553426.
"""
