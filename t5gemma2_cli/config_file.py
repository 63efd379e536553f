"""Options of a command in a TOML file, under their own names; the command line goes first."""

import difflib

import click

_TEXTS = (click.types.StringParamType, click.Path, click.Choice)


def config_option():
    """The option `--config FILE` of a command."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="TOML file with these options; those of the command line go first.",
    )


def _read(ctx, option, path):
    if path is None:
        return
    import tomllib

    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} must be TOML: {error}") from error
    known = {_name(p): p for p in ctx.command.params if p.expose_value}
    defaults = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise click.BadParameter(
                f"{path} must name options of this command. Received: {key!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        defaults[known[name].name] = _checked(known[name], key, value, path)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _name(parameter):
    """`learning-rate` of the option `--learning-rate`, `columns` of a table, `data` of DATA."""
    return parameter.name.replace("_", "-")


def _checked(parameter, key, value, path):
    """The value as click takes it, which would make integers of floats and truths of anything."""
    if parameter.name == "columns" and isinstance(value, dict):
        return [f"{old}={new}" for old, new in value.items()]
    is_flag = getattr(parameter, "is_flag", False)
    is_integer = isinstance(parameter.type, click.types.IntParamType)
    is_text = isinstance(parameter.type, _TEXTS)
    items = value if isinstance(value, list) and parameter.multiple else [value]
    for item in items:
        wrong = (
            isinstance(item, (dict, list))
            or is_flag != isinstance(item, bool)
            or (is_integer and not isinstance(item, int))
            or (is_text and not isinstance(item, str))
        )
        if wrong:
            kinds = {"true or false": is_flag, "an integer": is_integer, "a string": is_text}
            kind = next((kind for kind, is_kind in kinds.items() if is_kind), "a plain value")
            raise click.BadParameter(f"{key} in {path} must be {kind}. Received: {item!r}")
    return items if parameter.multiple else value
