"""Leaving another agent's rules for Weir's, and going back, while connections run.

Both sets of rules stand for a while: Weir's go in beside the others, are read back, and only then the others go; and
the other way round. So no moment is without rules. What the kernel makes of both at once, hook by hook:

raw (-300)      The zone of the proxy's DNS. A packet that has a zone by then keeps it (nft_ct.c, nft_ct_set_zone_eval;
                xt_CT.c, xt_ct_target), and of equal priorities the chain that was loaded last is met first
                (net/netfilter/core.c, nf_hook_entries_grow). So Weir's would decide, which puts a query into the zone
                in the original direction only. Theirs puts both directions into it: an answer to a query of Weir's
                kind would be looked for in the wrong zone, be new there, and clash with its own query's entry. Every
                answer would be lost. Hence only one kind is there at any time: Weir's table goes in without that rule,
                which follows as soon as the others' raw tables are out; those come back only after Weir's table is
                gone. In between the proxy's queries have no zone. Entries of the kind from before are forgotten: one
                that isn't found is no harm, one that is found for half of a flow is.
mangle (-150)   The connection mark of what the proxy dials, and the packet mark of the answers. Both write the same
                bits to the same place, so doing it twice is doing it once. The second mark is no change, so that the
                route isn't looked up again (nft_chain_route.c; iptable_mangle.c, ipt_mangle_out).
nat (-100)      All nat chains of a hook, of nft and of iptables, hang in one list by their priorities; it is gone
                through for a connection's first packet, until one of them has decided (nf_nat_core.c, nf_nat_inet_fn).
                Weir's stand at -101. What they redirect, nobody redirects again; what they leave alone, the others are
                asked about, as before. What was decided stays so while the connection lives, whatever rules go.
routing         The rule for marked packets and the route behind it are the same for both. A second equal rule is taken
                (fib_rules.c, fib_nl_newrule: without NLM_F_EXCL), so that Weir's is added before theirs is deleted. A
                table holds such a route once: it is replaced by one with the other protocol number in one step
                (fib_trie.c and ip6_fib.c, NLM_F_REPLACE).

A captured connection needs no rule but the answers' packet mark, and something that keeps connection tracking and its
translation going; both sets of rules have that.

    old       what the other agent has there, as values that can be put back
    owners    whose a chain or a table is, by its name and what it does
    journal   how far a migration has come: written before each step, so that any kill can be taken up
    findings  the look before: what is there, and whether every packet would fare alike
    parts     rules of the other agent taken out and put back
    routes    its policy rules and routes taken over and given back
    put       Weir's table put in beside the others, and taken away
    forward, back, run, unasked   the steps, and who takes them
"""
