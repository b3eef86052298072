from .rewrite import Rule

COMPOSITES: tuple[Rule, ...] = ()
